/* Turn scaled samples into tokens, like cpep_edge.mpf: band filters, products of all electrodes summed block by block,
   and at every hop a covariance over the last blocks. Logarithms are computed later, so that cpep_push stays short. */
#include "front_end.h"

#if CPEP_BANDS

#include <string.h>

#include "model.h"

#define SILENCE 1e-20f /* smaller filter states become zero, to avoid denormals, which some processors round to zero */

/* Filter the next sample in one band, in place. */
static void filter_band(float state[CPEP_BAND_SECTIONS][2][CPEP_CHANNELS], const cpep_band_section *section,
                        float *restrict x) {
    int32_t number, i;
    for (number = 0; number < CPEP_BAND_SECTIONS; number++, section++) {
        float *restrict first = state[number][0], *restrict second = state[number][1];
        for (i = 0; i < CPEP_CHANNELS; i++) {
            const float in = x[i], out = section->b0 * in + first[i];
            first[i] = section->b1 * in + section->minus_a1 * out + second[i];
            second[i] = section->b2 * in + section->minus_a2 * out;
            x[i] = out;
        }
    }
}

/* Add the products of all pairs of electrodes to an upper triangle. */
static void add_products(float *restrict sum, const float *restrict x) {
    int32_t i, j;
    for (i = 0; i < CPEP_CHANNELS; sum += CPEP_CHANNELS - i, i++) {
        for (j = i; j < CPEP_CHANNELS; j++) sum[j - i] += x[i] * x[j];
    }
}

static void settle(cpep_front_end *f) {
    float *state = &f->filter[0][0][0][0];
    int32_t i;
    for (i = 0; i < CPEP_BANDS * CPEP_BAND_SECTIONS * 2 * CPEP_CHANNELS; i++) {
        if (state[i] < SILENCE && state[i] > -SILENCE) state[i] = 0;
    }
}

/* End a full block. If there are enough blocks for a span, write its covariance. Returns whether it was written. */
static int close_block(cpep_front_end *f, float *covariance) {
    int32_t number, i;
    memcpy(f->blocks[f->at_block], f->block, sizeof f->block);
    memset(f->block, 0, sizeof f->block);
    f->at_block = f->at_block + 1 == CPEP_SPAN_BLOCKS ? 0 : f->at_block + 1;
    f->n_in_block = 0;
    settle(f);
    if (f->n_blocks < CPEP_SPAN_BLOCKS) f->n_blocks++;
    if (f->n_blocks < CPEP_SPAN_BLOCKS) return 0;
    memcpy(covariance, f->blocks[f->at_block], sizeof f->block);
    for (number = 1; number < CPEP_SPAN_BLOCKS; number++) {
        const float *block = f->blocks[(f->at_block + number) % CPEP_SPAN_BLOCKS];
        for (i = 0; i < CPEP_INPUTS; i++) covariance[i] += block[i];
    }
    for (i = 0; i < CPEP_INPUTS; i++) covariance[i] *= 1.0f / (CPEP_SPAN_BLOCKS * CPEP_HOP);
    return 1;
}

void cpep_front_end_reset(cpep_front_end *f, uint32_t sample_index) {
    f->n_before = (CPEP_HOP - (int32_t)(sample_index % CPEP_HOP)) % CPEP_HOP;
}

int cpep_front_end_push(cpep_front_end *f, const float scaled[CPEP_CHANNELS], float *covariance) {
    float x[CPEP_CHANNELS];
    int32_t band;
    for (band = 0; band < CPEP_BANDS; band++) {
        memcpy(x, scaled, sizeof x);
        filter_band(f->filter[band], cpep_the_model.bands[band], x);
        if (f->n_before == 0) add_products(f->block + band * CPEP_TRIANGLE, x);
    }
    if (f->n_before > 0) {
        f->n_before--;
        return 0;
    }
    return ++f->n_in_block == CPEP_HOP && close_block(f, covariance);
}

/* Turn the covariances of one step into a token, in place. */
static void take_token(cpep *c, float *step) {
    const uint8_t *live = c->calibration.live;
    const float *centre = c->calibration.centre;
    float *covariance = c->scratch.logarithm.covariance;
    int32_t band, i, j;
    for (band = 0; band < CPEP_BANDS; band++) {
        float *triangle = step + band * CPEP_TRIANGLE;
        const float *from = triangle;
        for (i = 0; i < CPEP_CHANNELS; i++) {
            for (j = i; j < CPEP_CHANNELS; j++) covariance[i * CPEP_CHANNELS + j] = *from++;
        }
        cpep_log_covariance(covariance, CPEP_CHANNELS, live, cpep_the_model.shrinkage, cpep_the_model.floor, triangle,
                            c->scratch.logarithm.work);
        for (i = 0; i < CPEP_CHANNELS; i++) {
            for (j = i; j < CPEP_CHANNELS; j++, triangle++) {
                if (centre != NULL) *triangle -= *centre++;
                if (!live[i] || !live[j]) *triangle = 0;
            }
        }
    }
}

int32_t cpep_take_tokens(cpep *c) {
    const int32_t n = c->front_end.n_waiting;
    int32_t left;
    for (left = n; left > 0; left--) {
        const int32_t at = c->head - left;
        take_token(c, c->ring + (at < 0 ? at + CPEP_WINDOW : at) * CPEP_INPUTS);
    }
    c->front_end.n_waiting = 0;
    return n;
}

void cpep_front_end_take(cpep *c) {
    float *restrict mean = c->front_end.mean;
    int32_t step, i;
    cpep_take_tokens(c);
    memset(mean, 0, sizeof c->front_end.mean);
    for (step = 0; step < CPEP_WINDOW; step++) {
        const float *token = c->ring + (c->head + step) % CPEP_WINDOW * CPEP_INPUTS;
        for (i = 0; i < CPEP_INPUTS; i++) mean[i] += token[i];
    }
    for (i = 0; i < CPEP_INPUTS; i++) mean[i] *= 1.0f / CPEP_WINDOW;
}

#endif
