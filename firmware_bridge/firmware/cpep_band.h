/* A wristband's side of the protocol: it answers commands, sends samples, and counts everything that was dropped.

       static band the_band;                         cpep_band_init(&the_band, &hal, NULL, &info);
       forever, from one context, not an interrupt:  cpep_band_poll(&the_band);
                                                     (sleep until bytes or cpep_band_samples_wanted samples arrive)

   Nothing here waits, allocates memory or depends on the hardware. The board provides the functions of `cpep_band_hal`;
   interrupts of the converter and the line may only use the board's own buffers. */
#ifndef CPEP_BAND_H
#define CPEP_BAND_H

#include "cpep_decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef CPEP_BAND_MAX_CHANNELS
#define CPEP_BAND_MAX_CHANNELS 32
#endif
#define CPEP_BAND_RECEIVE_BYTES (16u + 4u * CPEP_BAND_MAX_CHANNELS) /* holds the longest command, CALIBRATE */
#define CPEP_BAND_OUTBOX_BYTES 2048u /* a power of two that holds the longest frame and the answers behind it */

/* One sample of all channels. */
typedef struct {
    uint64_t t_us;     /* time of the conversion */
    uint32_t n_missed; /* samples that the converter missed between the previous one and this one */
    uint8_t flags;     /* CPEP_FRAME_LEAD_OFF, CPEP_FRAME_TRIGGER, CPEP_FRAME_TEST_SIGNAL */
    int32_t counts[CPEP_BAND_MAX_CHANNELS];
} cpep_band_sample;

typedef enum { CPEP_BAND_NO_SAMPLE, CPEP_BAND_SAMPLE, CPEP_BAND_NO_MORE } cpep_band_supply;

/* The functions that a board provides. None of them may wait. */
typedef struct {
    void *context;
    uint64_t (*clock_us)(void *context); /* time since boot, never decreasing */
    /* Copy received bytes, at most `size`, and return how many. */
    uint32_t (*receive)(void *context, uint8_t *bytes, uint32_t size);
    /* Take as many of `size` bytes as there is room for, and return how many. */
    uint32_t (*transmit)(void *context, const uint8_t *bytes, uint32_t size);
    /* Start or restart the conversion; false when that is impossible. */
    bool (*start)(void *context, float sample_rate_hz);
    void (*stop)(void *context); /* may also be called while no conversion runs */
    /* The next sample, if there is one; CPEP_BAND_NO_MORE after the last of a recording. */
    cpep_band_supply (*take)(void *context, cpep_band_sample *sample);
    /* Fill in battery and temperature; null when the board cannot measure them. */
    void (*measure)(void *context, cpep_frame_telemetry *telemetry);
    bool (*offers_rate)(void *context, float sample_rate_hz);   /* null when there is only one rate */
} cpep_band_hal;

/* An engine on the band that recognises gestures. `push` must return at once, and `take` only checks whether there is a
   decision. Work that takes longer than the board can buffer samples must run in a context of lower priority. */
typedef struct {
    void *context;
    void (*start)(void *context, float sample_rate_hz); /* a new stream: forget all samples */
    /* The next sample, [n_channels] counts; when the index jumps ahead, the converter missed samples. */
    void (*push)(void *context, const int32_t *counts, uint32_t sample_index);
    bool (*take)(void *context, cpep_frame_prediction *prediction);
    /* Time `n_runs` inferences, now, and call `between(b)` after each. Only called while nothing streams. Null when the
       engine cannot be timed. */
    bool (*bench)(void *context, uint16_t n_runs, cpep_frame_bench_result *result, void (*between)(void *b), void *b);
    /* Let channel c of the model read channel c + turn of the band, and multiply it by gains[c]. Only called while
       nothing streams. Null when the engine cannot be calibrated. */
    void (*calibrate)(void *context, const float *gains, uint8_t turn);
} cpep_band_classifier;

/* Counts since boot. */
typedef struct {
    uint32_t frames;  /* DATA frames made, including dropped ones */
    uint32_t samples; /* samples in those frames */
    uint32_t adc_overruns;
    uint32_t tx_overruns;
    uint32_t tx_overrun_samples;
    uint32_t dropped_answers; /* answers dropped because the host did not read */
} cpep_band_counts;

typedef struct {
    const cpep_band_hal *hal;
    const cpep_band_classifier *classifier;
    cpep_frame_info info;
    cpep_band_counts counts;

    /* The stream. */
    bool streaming;
    bool has_ended; /* whether `last_end` belongs to a stream since boot */
    bool overrun;   /* whether frames were dropped since the last DATA frame that was sent */
    uint16_t seq;
    uint32_t sample_index; /* of the next sample */
    uint64_t telemetry_due_us;
    cpep_frame_end last_end;

    /* The DATA frame that is being filled. */
    uint64_t first_t_us;
    uint8_t n_samples;
    uint8_t flags;
    uint32_t samples_bytes;
    uint8_t samples[CPEP_WIRE_MAX_BODY_BYTES];

    /* The line. */
    cpep_decoder decoder;
    uint8_t received[CPEP_BAND_RECEIVE_BYTES];
    uint8_t wire[CPEP_WIRE_MAX_BYTES + 1u];
    uint8_t outbox[CPEP_BAND_OUTBOX_BYTES]; /* a ring */
    uint32_t outbox_head, outbox_tail; /* total bytes put in and taken out, modulo 2^32 */
} cpep_band;

/* Boot, and send INFO. hal, classifier (or null) and the texts of info must stay valid. `capabilities` and `state` are
   filled in. False when a frame described by info is impossible. */
bool cpep_band_init(cpep_band *b, const cpep_band_hal *hal, const cpep_band_classifier *classifier,
                    const cpep_frame_info *info);

/* Do all work that is due: answer commands, take samples, send frames. */
void cpep_band_poll(cpep_band *b);

/* How many samples complete the next DATA frame; 0 while nothing streams. */
uint32_t cpep_band_samples_wanted(const cpep_band *b);

/* Send a text to the host as a LOG frame, if the line has room. The levels are those of PROTOCOL.md. */
void cpep_band_log(cpep_band *b, uint8_t level, cpep_frame_text line);

#ifdef __cplusplus
}
#endif

#endif
