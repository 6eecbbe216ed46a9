#include "recogniser.h"

#include <stdlib.h>
#include <time.h>

#include "cpep.h"
#include "golden.h"

/* `push` cuts a window when it is complete; `take` does the inference, which a board should do in a context of lower
   priority. A hop that is due while a window waits is skipped, as in the host's live loop. */
static struct {
    cpep engine;
    uint64_t (*clock_us)(void *context);
    void *context;
    uint32_t hop_samples;
    uint32_t next_index;   /* of the next sample */
    bool is_due;           /* whether a window was cut and not embedded yet */
    uint32_t window_index; /* one past its last sample */
    uint64_t window_us;
} the;

static void start(void *context, float sample_rate_hz) {
    (void)context;
    (void)sample_rate_hz;
    cpep_reset(&the.engine, 0);
    the.next_index = 0;
    the.is_due = false;
}

static void push(void *context, const int32_t *counts, uint32_t sample_index) {
    (void)context;
    if (sample_index != the.next_index) cpep_reset(&the.engine, sample_index); /* the converter missed samples */
    the.next_index = sample_index + 1u;
    cpep_push(&the.engine, counts);
    if (the.is_due || the.next_index % the.hop_samples != 0 || !cpep_is_full(&the.engine)) return;
    cpep_take_window(&the.engine);
    the.is_due = true;
    the.window_index = the.next_index;
    the.window_us = the.clock_us(the.context);
}

static bool take(void *context, cpep_frame_prediction *prediction) {
    uint64_t begun_us;
    cpep_vote vote;
    (void)context;
    if (!the.is_due) return false;
    the.is_due = false;
    begun_us = the.clock_us(the.context);
    vote = cpep_recognise(&the.engine);
    prediction->t_us = the.clock_us(the.context);
    prediction->sample_index = the.window_index;
    prediction->gesture_id = (uint16_t)vote.gesture;
    prediction->confidence = (float)vote.share / 16777216.0f;
    prediction->encoder_us = (uint32_t)(prediction->t_us - begun_us);
    prediction->total_us = (uint32_t)(prediction->t_us - the.window_us);
    return true;
}

static void calibrate(void *context, const float *gains, uint8_t turn) {
    uint32_t integers[CPEP_CHANNELS];
    uint8_t order[CPEP_CHANNELS];
    const cpep_donning donning = {integers, order, NULL, NULL, NULL};
    int32_t channel;
    (void)context;
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        integers[channel] = (uint32_t)(gains[channel] * 65536.0f + 0.5f);
        order[channel] = (uint8_t)((channel + turn) % CPEP_CHANNELS);
    }
    cpep_calibrate(&the.engine, &donning);
}

/* ---- The benchmark ---- */

static uint64_t real_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Whether every golden stretch gives the expected result; timings of a wrong engine are not reported. */
static bool is_right(void) {
    int32_t number, i;
    cpep_calibrate(&the.engine, NULL); /* the golden results are without a wearer's calibration */
    for (number = 0; number < n_golden_stretches; number++) {
        const golden_stretch *golden = &golden_stretches[number];
        cpep_vote vote;
        cpep_reset(&the.engine, golden->first_index);
        for (i = 0; i < golden->n_samples; i++) cpep_push(&the.engine, golden->samples + i * CPEP_CHANNELS);
        cpep_take_window(&the.engine);
        vote = cpep_recognise(&the.engine);
        if (vote.gesture != golden->vote.gesture || vote.share != golden->vote.share ||
            vote.similarity != golden->vote.similarity) {
            return false;
        }
    }
    return true;
}

static uint32_t time_one(void) {
    volatile int32_t gesture; /* so that the compiler does not remove the vote */
    const uint64_t begun_us = real_us();
    cpep_take_window(&the.engine);
    gesture = cpep_recognise(&the.engine).gesture;
    (void)gesture;
    return (uint32_t)(real_us() - begun_us);
}

static int by_size(const void *a, const void *b) {
    const uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
    return (one > other) - (one < other);
}

static uint32_t quantile(const uint32_t *sorted, uint32_t n, uint32_t percent) {
    return sorted[(n - 1u) * percent / 100u];
}

static bool bench(void *context, uint16_t n_runs, cpep_frame_bench_result *result, void (*between)(void *b), void *b) {
    static uint32_t times_us[UINT16_MAX];
    uint32_t run;
    const cpep_calibration kept = the.engine.calibration;
    const bool right = is_right();
    (void)context;
    the.engine.calibration = kept;
    if (!right) return false;
    time_one(); /* warms up */
    for (run = 0; run < n_runs; run++) {
        times_us[run] = time_one();
        between(b);
    }
    qsort(times_us, n_runs, sizeof *times_us, by_size);
    result->n_runs = n_runs;
    result->p50_us = quantile(times_us, n_runs, 50);
    result->p95_us = quantile(times_us, n_runs, 95);
    result->p99_us = quantile(times_us, n_runs, 99);
    result->max_us = times_us[n_runs - 1];
    result->arena_bytes = sizeof the.engine;
    return true;
}

const cpep_band_classifier *recogniser_open(uint32_t n_channels, uint32_t hop_samples, uint64_t (*clock_us)(void *context),
                                       void *context) {
    static const cpep_band_classifier classifier = {NULL, start, push, take, bench, calibrate};
    if (n_channels != CPEP_CHANNELS || hop_samples == 0) return NULL;
    the.clock_us = clock_us;
    the.context = context;
    the.hop_samples = hop_samples;
    return &classifier;
}
