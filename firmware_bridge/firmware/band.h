/* A wristband's side of the protocol: commands in, samples out, and a count of everything that did not get through.

       static band the_band;                         band_init(&the_band, &hal, NULL, &info);
       forever, from one context and no interrupt:   band_poll(&the_band);
                                                     (sleep until bytes or band_samples_wanted samples are there)

   Nothing here waits, allocates or knows the hardware. The board gives it what `band_hal` asks for; interrupts of the
   converter and the line touch the board's own buffers only. */
#ifndef CPEP_BAND_H
#define CPEP_BAND_H

#include "decoder.h"

#ifndef BAND_MAX_CHANNELS
#define BAND_MAX_CHANNELS 32
#endif
#define BAND_RECEIVE_BYTES (16u + 4u * BAND_MAX_CHANNELS) /* the longest command, CALIBRATE, has no more */
#define BAND_OUTBOX_BYTES 2048u /* a power of two that holds the longest frame and the answers behind it */

/* One instant of all channels. */
typedef struct {
    uint64_t t_us;     /* when it was converted */
    uint32_t n_missed; /* sample periods between the last sample and this one that gave none */
    uint8_t flags;     /* FRAME_LEAD_OFF, FRAME_TRIGGER, FRAME_TEST_SIGNAL */
    int32_t counts[BAND_MAX_CHANNELS];
} band_sample;

typedef enum { BAND_NO_SAMPLE, BAND_SAMPLE, BAND_NO_MORE } band_supply;

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
    /* The next sample, if there is one; BAND_NO_MORE after the last of a recording. */
    band_supply (*take)(void *context, band_sample *sample);
    void (*measure)(void *context, frame_telemetry *telemetry); /* battery and temperature; null where there are none */
    bool (*offers_rate)(void *context, float sample_rate_hz);   /* null where there is one rate only */
} band_hal;

/* An engine on the band that recognises gestures. `push` must return at once and `take` only looks whether a decision
   was made: what takes longer than the board can buffer samples belongs in a context of lower priority. */
typedef struct {
    void *context;
    void (*start)(void *context, float sample_rate_hz); /* a stream begins: forget the past */
    /* A sample, [n_channels] counts; an index that jumps ahead tells of samples that the converter missed. */
    void (*push)(void *context, const int32_t *counts, uint32_t sample_index);
    bool (*take)(void *context, frame_prediction *prediction);
    /* Time `n_runs` inferences, now, and call `between(b)` after each; only called while nothing streams. Null where
       that is impossible. */
    bool (*bench)(void *context, uint16_t n_runs, frame_bench_result *result, void (*between)(void *b), void *b);
    /* Multiply each channel, as the model counts them, by its gain, and take what channel c reads from c + turn; only
       called while nothing streams. Null where that is impossible. */
    void (*calibrate)(void *context, const float *gains, uint8_t turn);
} band_classifier;

/* Since boot. */
typedef struct {
    uint32_t frames;  /* DATA frames made, whatever became of them */
    uint32_t samples; /* in those */
    uint32_t adc_overruns;
    uint32_t tx_overruns;
    uint32_t tx_overrun_samples;
    uint32_t dropped_answers; /* to a host that asks and does not read */
} band_counts;

typedef struct {
    const band_hal *hal;
    const band_classifier *classifier;
    frame_info info;
    band_counts counts;

    /* The stream. */
    bool streaming;
    bool has_ended; /* whether `last_end` is of a stream since boot */
    bool overrun;   /* since the last DATA frame that went out */
    uint16_t seq;
    uint32_t sample_index; /* of the next sample */
    uint64_t telemetry_due_us;
    frame_end last_end;

    /* The DATA frame that is being filled. */
    uint64_t first_t_us;
    uint8_t n_samples;
    uint8_t flags;
    uint32_t samples_bytes;
    uint8_t samples[WIRE_MAX_BODY_BYTES];

    /* The line. */
    decoder decoder;
    uint8_t received[BAND_RECEIVE_BYTES];
    uint8_t wire[WIRE_MAX_BYTES + 1u];
    uint8_t outbox[BAND_OUTBOX_BYTES]; /* a ring */
    uint32_t outbox_head, outbox_tail; /* bytes ever put in and taken out, modulo 2^32 */
} band;

/* Boot: greet whoever listens. What hal, classifier (or null) and the texts of info point to must stay. False when a
   frame as info describes it is impossible. `capabilities` and `state` are filled in. */
bool band_init(band *b, const band_hal *hal, const band_classifier *classifier, const frame_info *info);

/* Do what is due: answer commands, take samples, send. */
void band_poll(band *b);

/* How many samples complete the next DATA frame; 0 while nothing streams. */
uint32_t band_samples_wanted(const band *b);

/* Tell the host a line of text, if the line has room. Levels as in PROTOCOL.md. */
void band_log(band *b, uint8_t level, frame_text line);

#endif
