/* Samples into the ring: biquads in direct form I on 32-bit samples with 64-bit sums.

   What rounding cuts from an output is added to the next sum, so that the error has no slow part, which the poles close
   to the unit circle would blow up. */
#include <string.h>

#include "cpep.h"
#include "model.h"

#define COEFFICIENT_BITS 29
#define FRACTION_BITS 6 /* of a count, carried through the filter */
#define SAMPLE_LIMIT ((1 << 23) - 1)

static int32_t limited(int64_t value) {
    const int32_t low = (int32_t)value;
    return low == value ? low : value < 0 ? INT32_MIN : INT32_MAX;
}

static int32_t input_of(int32_t count) {
    return cpep_clamp(count, -SAMPLE_LIMIT, SAMPLE_LIMIT) * (1 << FRACTION_BITS);
}

/* As if the sample had been there for ever. */
static void rest_at(cpep *c, const int32_t sample[CPEP_CHANNELS]) {
    int32_t channel, number;
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        int32_t x = input_of(sample[channel]);
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

void cpep_reset(cpep *c) {
    memset(c, 0, sizeof *c); /* what fills up a depth stays zero from here on */
}

void cpep_push(cpep *c, const int32_t sample[CPEP_CHANNELS]) {
    const cpep_model *model = &cpep_the_model;
    int16_t *out = c->ring + c->head * CPEP_CHANNELS;
    int32_t channel, section;
    if (c->n_samples == 0) rest_at(c, sample);
    for (channel = 0; channel < CPEP_CHANNELS; channel++) {
        int32_t x = input_of(sample[channel]);
        for (section = 0; section < CPEP_SECTIONS; section++) {
            x = step(&c->sections[channel][section], &model->sections[section], x);
        }
        x = limited(cpep_scale(x, model->input_multiplier, model->input_shift));
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
