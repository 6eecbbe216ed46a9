#include "kernels.h"

#if CPEP_LAYERS && !CPEP_MVE && !CPEP_DSP

void cpep_multiply8(cpep_rows8 a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, j, d;
    for (i = 0; i < a.n; i++) {
        for (j = 0; j < b.n; j++) {
            const int8_t *x = a.first + i * a.stride, *w = b.first + j * b.stride;
            int32_t sum = 0;
            for (d = 0; d < depth; d++) sum += x[d] * w[d];
            products[i * b.n + j] = sum;
        }
    }
}

void cpep_multiply16(cpep_rows16 a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, j, d;
    for (i = 0; i < a.n; i++) {
        for (j = 0; j < b.n; j++) {
            const int16_t *x = a.first + i * a.stride;
            const int8_t *w = b.first + j * b.stride;
            int32_t sum = 0;
            for (d = 0; d < depth; d++) sum += x[d] * w[d];
            products[i * b.n + j] = sum;
        }
    }
}

#endif

#if CPEP_LAYERS && !CPEP_MVE && !CPEP_DSP

void cpep_requantise(int32_t *products, int32_t n_rows, const cpep_linear *layer, int32_t first, int32_t n) {
    const int32_t *bias = layer->bias + first, *multiplier = layer->multiplier + first;
    int32_t i, j;
    for (i = 0; i < n_rows; i++, products += n) {
        for (j = 0; j < n; j++) {
            products[j] = cpep_round_shift(cpep_high_multiply(products[j] + bias[j], multiplier[j]), layer->shift);
        }
    }
}

#endif

#if CPEP_LAYERS && !CPEP_MVE

int32_t cpep_multiply_row(const int16_t *x, const int8_t *w, int32_t n) {
    int32_t sum = 0, i;
    for (i = 0; i < n; i++) sum += x[i] * w[i];
    return sum;
}

void cpep_store8(const int32_t *y, int32_t n, int8_t *to, int32_t step) {
    int32_t i;
    for (i = 0; i < n; i++) to[i * step] = (int8_t)cpep_clamp(y[i], -128, 127);
}

void cpep_store_gelu(const int32_t *y, int32_t n, const int8_t *table, int8_t *to) {
    int32_t i;
    for (i = 0; i < n; i++) to[i] = table[cpep_clamp(y[i], 0, CPEP_GELU_ENTRIES - 1)];
}

void cpep_add16(const int32_t *y, int32_t n, int16_t *to) {
    int32_t i;
    for (i = 0; i < n; i++) to[i] = (int16_t)cpep_clamp(to[i] + y[i], INT16_MIN, INT16_MAX);
}

void cpep_scale32_to8(const int32_t *x, int32_t n, int32_t multiplier, int32_t shift, int8_t *y) {
    int32_t i;
    for (i = 0; i < n; i++) {
        y[i] = (int8_t)cpep_clamp(cpep_round_shift(cpep_high_multiply(x[i], multiplier), shift), -128, 127);
    }
}

uint64_t cpep_square_sum(const int16_t *x, int32_t n) {
    uint64_t sum = 0;
    int32_t i;
    for (i = 0; i < n; i++) sum += (uint32_t)(x[i] * x[i]);
    return sum;
}

void cpep_scale16_to8(const int16_t *x, int32_t n, int32_t multiplier, int32_t shift, int8_t *y) {
    int32_t i;
    for (i = 0; i < n; i++) y[i] = (int8_t)cpep_clamp(cpep_round_shift(x[i] * multiplier, shift), -128, 127);
}

#endif
