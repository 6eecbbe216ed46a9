/* Samples into the ring: biquads in direct form I on 32-bit samples with 64-bit sums.

   What rounding cuts from an output is added to the next sum, so that the error has no slow part, which the poles close
   to the unit circle would blow up. */
#include <string.h>

#include "cpep.h"
#include "model.h"

#define COEFFICIENT_BITS 29
#define FRACTION_BITS 6 /* of a count, carried through the filter */
#define SAMPLE_LIMIT ((1 << 23) - 1)
#define GAIN_BITS 16
#define MAX_SHIFT 62 /* of cpep_scale */

static int32_t limited(int64_t value) {
    const int32_t low = (int32_t)value;
    return low == value ? low : value < 0 ? INT32_MIN : INT32_MAX;
}

/* What the model's channel gets of a sample. */
static int32_t input_of(const cpep *c, const int32_t sample[CPEP_CHANNELS], int32_t channel) {
    const int32_t from = channel + c->calibration.turn;
    const int32_t count = sample[from < CPEP_CHANNELS ? from : from - CPEP_CHANNELS];
    return cpep_clamp(count, -SAMPLE_LIMIT, SAMPLE_LIMIT) * (1 << FRACTION_BITS);
}

/* As if the sample had been there for ever. */
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

/* A gain, in 2^-16, on top of the model's own scale. */
static cpep_real scale_with(uint32_t gain) {
    uint64_t product = (uint64_t)cpep_the_model.input_multiplier * gain;
    cpep_real scale = {0, cpep_the_model.input_shift + GAIN_BITS};
    while (product > INT32_MAX || scale.exponent > MAX_SHIFT) product >>= 1, scale.exponent--;
    scale.mantissa = (uint32_t)product;
    return scale;
}

void cpep_calibrate(cpep *c, const uint32_t *gains, int32_t turn) {
    int32_t channel;
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        c->calibration.input[channel] = scale_with(gains == NULL ? 1u << GAIN_BITS : gains[channel]);
    }
    c->calibration.turn = turn;
}

void cpep_reset(cpep *c) {
    const cpep_calibration kept = c->calibration;
    memset(c, 0, sizeof *c); /* what fills up a depth stays zero from here on */
    c->calibration = kept;
    if (kept.input[0].mantissa == 0) cpep_calibrate(c, NULL, 0);
}

void cpep_push(cpep *c, const int32_t sample[CPEP_CHANNELS]) {
    const cpep_model *model = &cpep_the_model;
    int16_t *out = c->ring + c->head * CPEP_CHANNELS;
    int32_t channel, section;
    if (c->n_samples == 0) rest_at(c, sample);
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        const cpep_real *scale = &c->calibration.input[channel];
        int32_t x = input_of(c, sample, channel);
        for (section = 0; section < CPEP_SECTIONS; section++) {
            x = step(&c->sections[channel][section], &model->sections[section], x);
        }
        x = limited(cpep_scale(x, (int32_t)scale->mantissa, scale->exponent));
        x = cpep_clamp(x, -CPEP_INPUT_LIMIT, CPEP_INPUT_LIMIT);
        out[channel] = (int16_t)(CPEP_RECTIFIED && x < 0 ? -x : x);
    }
    c->head = c->head + 1 == CPEP_WINDOW ? 0 : c->head + 1;
    if (c->n_samples < CPEP_WINDOW) c->n_samples++;
}

int cpep_is_full(const cpep *c) {
    return c->n_samples == CPEP_WINDOW;
}

void cpep_load_window(cpep *c, const int16_t *samples) {
    memcpy(c->ring, samples, sizeof c->ring);
    c->head = 0;
    c->n_samples = CPEP_WINDOW;
}
