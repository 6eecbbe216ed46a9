/* A wristband's side of the protocol: commands in, samples out, and a count of everything that did not get through.

       static band the_band;                         cpep_band_init(&the_band, &hal, NULL, &info);
       forever, from one context and no interrupt:   cpep_band_poll(&the_band);
                                                     (sleep until bytes or cpep_band_samples_wanted samples are there)

   Nothing here waits, allocates or knows the hardware. The board gives it what `cpep_band_hal` asks for; interrupts of
   the converter and the line touch the board's own buffers only. */
#ifndef CPEP_BAND_H
#define CPEP_BAND_H

#include "cpep_decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef CPEP_BAND_MAX_CHANNELS
#define CPEP_BAND_MAX_CHANNELS 32
#endif
#define CPEP_BAND_RECEIVE_BYTES (16u + 4u * CPEP_BAND_MAX_CHANNELS) /* the longest command, CALIBRATE, has no more */
#define CPEP_BAND_OUTBOX_BYTES 2048u /* a power of two that holds the longest frame and the answers behind it */

/* One instant of all channels. */
typedef struct {
    uint64_t t_us;     /* when it was converted */
    uint32_t n_missed; /* sample periods between the last sample and this one that gave none */
    uint8_t flags;     /* CPEP_FRAME_LEAD_OFF, CPEP_FRAME_TRIGGER, CPEP_FRAME_TEST_SIGNAL */
    int32_t counts[CPEP_BAND_MAX_CHANNELS];
} cpep_band_sample;

typedef enum { CPEP_BAND_NO_SAMPLE, CPEP_BAND_SAMPLE, CPEP_BAND_NO_MORE } cpep_band_supply;

/* What a board provides. No function may wait. */
typedef struct {
    void *context;
    uint64_t (*clock_us)(void *context); /* since boot, never backwards */
    /* Move what arrived, at most `size` bytes, and return how many. */
    uint32_t (*receive)(void *context, uint8_t *bytes, uint32_t size);
    /* Take as many of `size` bytes as there is room for, and return how many. */
    uint32_t (*transmit)(void *context, const uint8_t *bytes, uint32_t size);
    /* Begin to convert, or begin anew; false when that is impossible. */
    bool (*start)(void *context, float sample_rate_hz);
    void (*stop)(void *context); /* also comes while nothing is converted */
    /* The next sample, if there is one; CPEP_BAND_NO_MORE after the last of a recording. */
    cpep_band_supply (*take)(void *context, cpep_band_sample *sample);
    /* Battery and temperature; null where there are none. */
    void (*measure)(void *context, cpep_frame_telemetry *telemetry);
    bool (*offers_rate)(void *context, float sample_rate_hz);   /* null where there is one rate only */
} cpep_band_hal;

/* An engine on the band that recognises gestures. `push` must return at once and `take` only looks whether a decision
   was made: what takes longer than the board can buffer samples belongs in a context of lower priority. */
typedef struct {
    void *context;
    void (*start)(void *context, float sample_rate_hz); /* a stream begins: forget the past */
    /* A sample, [n_channels] counts; an index that jumps ahead tells of samples that the converter missed. */
    void (*push)(void *context, const int32_t *counts, uint32_t sample_index);
    bool (*take)(void *context, cpep_frame_prediction *prediction);
    /* Time `n_runs` inferences, now, and call `between(b)` after each; only called while nothing streams. Null where
       that is impossible. */
    bool (*bench)(void *context, uint16_t n_runs, cpep_frame_bench_result *result, void (*between)(void *b), void *b);
    /* Multiply each channel, as the model counts them, by its gain, and take what channel c reads from c + turn; only
       called while nothing streams. Null where that is impossible. */
    void (*calibrate)(void *context, const float *gains, uint8_t turn);
} cpep_band_classifier;

/* Since boot. */
typedef struct {
    uint32_t frames;  /* DATA frames made, whatever became of them */
    uint32_t samples; /* in those */
    uint32_t adc_overruns;
    uint32_t tx_overruns;
    uint32_t tx_overrun_samples;
    uint32_t dropped_answers; /* to a host that asks and does not read */
} cpep_band_counts;

typedef struct {
    const cpep_band_hal *hal;
    const cpep_band_classifier *classifier;
    cpep_frame_info info;
    cpep_band_counts counts;

    /* The stream. */
    bool streaming;
    bool has_ended; /* whether `last_end` is of a stream since boot */
    bool overrun;   /* since the last DATA frame that went out */
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
    uint32_t outbox_head, outbox_tail; /* bytes ever put in and taken out, modulo 2^32 */
} cpep_band;

/* Boot: greet whoever listens. What hal, classifier (or null) and the texts of info point to must stay. False when a
   frame as info describes it is impossible. `capabilities` and `state` are filled in. */
bool cpep_band_init(cpep_band *b, const cpep_band_hal *hal, const cpep_band_classifier *classifier,
                    const cpep_frame_info *info);

/* Do what is due: answer commands, take samples, send. */
void cpep_band_poll(cpep_band *b);

/* How many samples complete the next DATA frame; 0 while nothing streams. */
uint32_t cpep_band_samples_wanted(const cpep_band *b);

/* Tell the host a line of text, if the line has room. Levels as in PROTOCOL.md. */
void cpep_band_log(cpep_band *b, uint8_t level, cpep_frame_text line);

#ifdef __cplusplus
}
#endif

#endif
