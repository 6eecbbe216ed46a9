/* The EMG encoder as a C library, without torch or Python: one window in, one embedding out. The filter and the front
 * end, which come before the encoder, are included.
 *
 * Errors: a call that fails returns an error value and writes one line of text, always terminated, into `error`,
 * which may be NULL. Only one thread at a time may use an encoder; different encoders may run in parallel.
 */
#ifndef CPEP_ENCODER_H
#define CPEP_ENCODER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CPEP_API __attribute__((visibility("default")))
#define CPEP_ABI_VERSION 4

typedef struct cpep_encoder cpep_encoder;

typedef struct {
  int32_t n_channels;
  int32_t window_samples;
  int32_t d_embed;
  int32_t n_states; /* state tensors of a streaming program; 0: windows are independent */
} cpep_shape;

/* The CPEP_ABI_VERSION that the library was built with; a caller built with another version must not use it. */
CPEP_API uint32_t cpep_abi_version(void);

/* Open an ExecuTorch program that maps (1, n_channels, window_samples) float32 to (1, d_embed) float32.
 *
 * A streaming program has further float32 inputs and as many outputs of the same shapes: its state, which depends on
 * earlier windows. The encoder keeps it from one cpep_run to the next; it starts as zeros.
 *
 * program: aligned to 16 bytes; read in place, so it must stay unchanged until cpep_close
 * n_threads: 1 runs in the calling thread; more use the process's one thread pool, whose size the first such call sets
 * returns NULL on failure
 */
CPEP_API cpep_encoder *cpep_open(const void *program, size_t program_bytes, uint32_t n_threads, char *error,
                                 size_t error_bytes);

CPEP_API cpep_shape cpep_shape_of(const cpep_encoder *encoder);

/* Embed one window.
 *
 * window: n_channels rows of window_samples, preprocessed
 * embedding: d_embed numbers, written only on success
 * returns 0, or -1 on failure
 */
CPEP_API int cpep_run(cpep_encoder *encoder, const float *window, float *embedding, char *error, size_t error_bytes);

/* Filter the next samples of a stream in place: second-order sections, causal, in double precision.
 *
 * sections: n_sections rows of b0 b1 b2 a0 a1 a2, a0 being 1
 * samples: n_samples rows of n_channels
 * state: for each section two rows of n_channels, kept by the caller from one call to the next
 */
CPEP_API void cpep_filter(const double *sections, size_t n_sections, double *samples, size_t n_samples,
                          size_t n_channels, double *state);

/* The specification of a front end like cpep_edge.mpf, in double precision: band filters, covariances of all
 * electrodes, and their matrix logarithms (`mpf.h` of the chip's engine). The arrays are copied. */
typedef struct {
  size_t n_electrodes, n_bands;
  size_t n_sections;      /* of each band; fill up with neutral sections, 1 0 0 1 0 0 */
  const double *sections; /* for each band n_sections rows of b0 b1 b2 a0 a1 a2, a0 being 1 */
  size_t hop_samples;
  size_t span_samples; /* a whole number of hops */
  double shrinkage, floor;
  const uint8_t *live; /* n_electrodes, zero for an electrode to leave out */
  const float *centre; /* subtracted from each token: n_bands n_electrodes (n_electrodes + 1) / 2 numbers */
} cpep_front_end_spec;

typedef struct cpep_front_end cpep_front_end;

/* Open a front end for one stream. Returns NULL when there is not enough memory. */
CPEP_API cpep_front_end *cpep_front_end_open(const cpep_front_end_spec *spec);

/* Forget the past. The next sample gets this index; blocks begin at indices that are multiples of the hop. */
CPEP_API void cpep_front_end_reset(cpep_front_end *front_end, uint64_t sample_index);

/* Process the next samples of the stream.
 *
 * samples: n_samples rows of n_electrodes, preprocessed
 * tokens: room for 1 + n_samples / hop_samples tokens
 * returns the number of tokens that were written
 */
CPEP_API size_t cpep_front_end_run(cpep_front_end *front_end, const float *samples, size_t n_samples, float *tokens);

/* Free a front end; NULL is allowed. */
CPEP_API void cpep_front_end_close(cpep_front_end *front_end);

/* Free an encoder; NULL is allowed. */
CPEP_API void cpep_close(cpep_encoder *encoder);

#ifdef __cplusplus
}
#endif

#endif
