/* The EMG encoder as a C library: one window in, one embedding out; and what comes before it, the filter and the front
 * end. No torch, no Python.
 *
 * Errors: a call that fails says so by its result and writes one line of text, always terminated, into `error`,
 * which may be NULL. An encoder is used by one thread at a time; different encoders may run side by side.
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
  int32_t n_states; /* tensors that a streaming program keeps; 0: each window stands alone */
} cpep_shape;

/* The CPEP_ABI_VERSION that the library was built with; a caller that was built with another must not go on. */
CPEP_API uint32_t cpep_abi_version(void);

/* Open an ExecuTorch program that takes (1, n_channels, window_samples) float32 and gives (1, d_embed) float32.
 *
 * A streaming program takes and gives more float32 tensors, as many in as out and of the same shapes: what it keeps of
 * earlier windows. The encoder holds them from one cpep_run to the next; they start as zeros.
 *
 * program: aligned to 16 bytes; read in place, so it must stay unchanged until cpep_close
 * n_threads: 1 runs in the calling thread; more come from one pool of the process, whose size the first such call sets
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

/* The front end of one stream, as cpep_edge.mpf has it, in double precision: band filters, covariances of all electrodes,
 * their matrix logarithms (`mpf.h` of the chip's engine). What it points to is copied. */
typedef struct {
  size_t n_electrodes, n_bands;
  size_t n_sections;      /* of each band; one of 1 0 0 1 0 0 changes nothing */
  const double *sections; /* for each band so many rows of b0 b1 b2 a0 a1 a2, a0 being 1 */
  size_t hop_samples;
  size_t span_samples; /* a whole number of hops */
  double shrinkage, floor;
  const uint8_t *live; /* n_electrodes, zero for one that is taken out */
  const float *centre; /* subtracted from each token: n_bands n_electrodes (n_electrodes + 1) / 2 numbers */
} cpep_front_end_spec;

typedef struct cpep_front_end cpep_front_end;

/* returns NULL where there is no memory */
CPEP_API cpep_front_end *cpep_front_end_open(const cpep_front_end_spec *spec);

/* Forget the past; the next sample has this index, and blocks begin at whole multiples of the hop. */
CPEP_API void cpep_front_end_reset(cpep_front_end *front_end, uint64_t sample_index);

/* Take the next samples of the stream.
 *
 * samples: n_samples rows of n_electrodes, preprocessed
 * tokens: room for 1 + n_samples / hop_samples of them
 * returns how many were completed
 */
CPEP_API size_t cpep_front_end_run(cpep_front_end *front_end, const float *samples, size_t n_samples, float *tokens);

/* NULL is allowed. */
CPEP_API void cpep_front_end_close(cpep_front_end *front_end);

/* Free an encoder; NULL is allowed. */
CPEP_API void cpep_close(cpep_encoder *encoder);

#ifdef __cplusplus
}
#endif

#endif
