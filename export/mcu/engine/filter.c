/* Filter samples and write them to the ring buffer, through the front end if there is one. The filters are biquads in
   direct form I on 32-bit samples with 64-bit sums.

   The rounding error of an output is added to the next sum, so that the error has no low frequencies, which the
   poles close to the unit circle would amplify. */
#include <string.h>

#include "cpep.h"
#include "front_end.h"
#include "model.h"

#define COEFFICIENT_BITS 29
#define FRACTION_BITS 6 /* of a count, kept in the filter */
#define SAMPLE_LIMIT ((1 << 23) - 1)
#define GAIN_BITS 16
#define MAX_SHIFT 62 /* of cpep_scale */

static int32_t limited(int64_t value) {
    const int32_t low = (int32_t)value;
    return low == value ? low : value < 0 ? INT32_MIN : INT32_MAX;
}

/* The filter's input for one of the model's channels. */
static int32_t input_of(const cpep *c, const int32_t sample[CPEP_CHANNELS], int32_t channel) {
    const int32_t count = sample[c->calibration.order[channel]];
    return cpep_clamp(count, -SAMPLE_LIMIT, SAMPLE_LIMIT) * (1 << FRACTION_BITS);
}

/* Settle the filter as if this sample had been constant for ever. */
static void rest_at(cpep *c, const int32_t sample[CPEP_CHANNELS]) {
    int32_t channel, number;
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        int32_t x = input_of(c, sample, channel);
        for (number = 0; number < CPEP_SECTIONS; number++) {
            cpep_section_state *state = &c->sections[channel][number];
            const cpep_section *section = &cpep_the_model.sections[number];
            state->x1 = state->x2 = x;
            state->y1 = state->y2 = x = limited(cpep_scale(x, section->rest_gain, COEFFICIENT_BITS));
            state->rest = 0;
        }
    }
}

static int32_t step(cpep_section_state *s, const cpep_section *c, int32_t x) {
    int64_t sum = s->rest + (int64_t)c->b0 * x + (int64_t)c->b1 * s->x1 + (int64_t)c->b2 * s->x2 +
                  (int64_t)c->minus_a1 * s->y1 + (int64_t)c->minus_a2 * s->y2;
    int32_t y = limited(sum >> COEFFICIENT_BITS);
    s->rest = (uint32_t)sum & ((1u << COEFFICIENT_BITS) - 1);
    s->x2 = s->x1, s->x1 = x;
    s->y2 = s->y1, s->y1 = y;
    return y;
}

/* The model's own scale times a gain in 2^-16. */
static cpep_real scale_with(uint32_t gain) {
    uint64_t product = (uint64_t)cpep_the_model.input_multiplier * gain;
    cpep_real scale = {0, cpep_the_model.input_shift + GAIN_BITS};
    while (product > INT32_MAX || scale.exponent > MAX_SHIFT) product >>= 1, scale.exponent--;
    scale.mantissa = (uint32_t)product;
    return scale;
}

/* The band's channel for one of the model's channels, and whether its electrode is live. */
static int32_t channel_at(const cpep_donning *donning, int32_t place) {
    return donning->order == NULL ? place : donning->order[place];
}

static int is_live(const cpep_donning *donning, int32_t place) {
    return (donning->live == NULL || donning->live[place]) && !cpep_the_model.is_masked[channel_at(donning, place)];
}

/* Whether the order is a permutation and, if there is a front end, at least two electrodes are live. */
static int can_be_worn(const cpep_donning *donning) {
    uint8_t is_taken[CPEP_CHANNELS] = {0};
    int32_t channel, n_live = 0;
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        const int32_t from = channel_at(donning, channel);
        if (from >= CPEP_CHANNELS || is_taken[from]) return 0;
        is_taken[from] = 1;
        n_live += is_live(donning, channel);
    }
    return n_live >= 2 || !CPEP_BANDS;
}

int cpep_calibrate(cpep *c, const cpep_donning *donning) {
    static const cpep_donning usual = {NULL, NULL, NULL, NULL, NULL};
    cpep_calibration *to = &c->calibration;
    int32_t channel;
    if (donning == NULL) donning = &usual;
    if (!can_be_worn(donning)) return 0;
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        to->input[channel] = scale_with(donning->gains == NULL ? 1u << GAIN_BITS : donning->gains[channel]);
        to->order[channel] = (uint8_t)channel_at(donning, channel);
        to->live[channel] = (uint8_t)is_live(donning, channel);
    }
#if CPEP_BANDS
    to->centre = donning->centre == NULL ? cpep_the_model.centre : donning->centre;
#endif
#if CPEP_HEAD_GESTURES
    to->head_means = donning->head_means;
#endif
    return 1;
}

void cpep_reset(cpep *c, uint32_t sample_index) {
    const cpep_calibration kept = c->calibration;
    memset(c, 0, sizeof *c); /* the padding of depths stays zero from here on */
    c->calibration = kept;
    if (kept.input[0].mantissa == 0) cpep_calibrate(c, NULL);
#if CPEP_BANDS
    cpep_front_end_reset(&c->front_end, sample_index);
#else
    (void)sample_index;
#endif
}

/* Filter and scale the next sample of a channel; zero for a dead electrode. */
static int32_t filtered(cpep *c, const int32_t sample[CPEP_CHANNELS], int32_t channel) {
    const cpep_real *scale = &c->calibration.input[channel];
    int32_t x = input_of(c, sample, channel), section;
    if (!c->calibration.live[channel]) return 0;
    for (section = 0; section < CPEP_SECTIONS; section++) {
        x = step(&c->sections[channel][section], &cpep_the_model.sections[section], x);
    }
    x = limited(cpep_scale(x, (int32_t)scale->mantissa, scale->exponent));
    return cpep_clamp(x, -CPEP_INPUT_LIMIT, CPEP_INPUT_LIMIT);
}

static void count_step(cpep *c) {
    c->head = c->head + 1 == CPEP_WINDOW ? 0 : c->head + 1;
    if (c->n_steps < CPEP_WINDOW) c->n_steps++;
}

void cpep_push(cpep *c, const int32_t sample[CPEP_CHANNELS]) {
    cpep_step *out = c->ring + c->head * CPEP_INPUTS;
    int32_t channel;
    if (!c->has_begun) rest_at(c, sample);
    c->has_begun = 1;
#if CPEP_BANDS
    float scaled[CPEP_CHANNELS];
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        scaled[channel] = (float)filtered(c, sample, channel) * (1.0f / (1 << CPEP_INPUT_BITS));
    }
    if (!cpep_front_end_push(&c->front_end, scaled, out)) return;
    if (c->front_end.n_waiting < CPEP_WINDOW) c->front_end.n_waiting++;
#else
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        const int32_t x = filtered(c, sample, channel);
        out[channel] = (int16_t)(CPEP_RECTIFIED && x < 0 ? -x : x);
    }
#endif
    count_step(c);
}

int cpep_is_full(const cpep *c) {
    return c->n_steps == CPEP_WINDOW;
}

void cpep_load_window(cpep *c, const cpep_step *steps) {
    memcpy(c->ring, steps, sizeof c->ring);
    c->head = 0;
    c->n_steps = CPEP_WINDOW;
#if CPEP_BANDS
    c->front_end.n_waiting = 0;
#endif
}
