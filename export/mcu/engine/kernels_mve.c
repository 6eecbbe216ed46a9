#include "kernels.h"

#if CPEP_MVE

#include <arm_mve.h>

/* Three rows by two: five loads feed six products, and six sums and five pointers are what the registers hold. */
static void three_by_two8(const int8_t *x, int32_t x_stride, const int8_t *w, int32_t w_stride, int32_t depth,
                          int32_t *products, int32_t n) {
    const int8_t *x0 = x, *x1 = x + x_stride, *x2 = x1 + x_stride, *w0 = w, *w1 = w + w_stride;
    int32_t s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, d;
    for (d = depth / 16; d > 0; d--) {
        int8x16_t v0 = vldrbq_s8(w0), v1 = vldrbq_s8(w1), u0 = vldrbq_s8(x0), u1 = vldrbq_s8(x1), u2 = vldrbq_s8(x2);
        s00 = vmladavaq_s8(s00, u0, v0);
        s01 = vmladavaq_s8(s01, u0, v1);
        s10 = vmladavaq_s8(s10, u1, v0);
        s11 = vmladavaq_s8(s11, u1, v1);
        s20 = vmladavaq_s8(s20, u2, v0);
        s21 = vmladavaq_s8(s21, u2, v1);
        x0 += 16, x1 += 16, x2 += 16, w0 += 16, w1 += 16;
    }
    products[0] = s00, products[1] = s01;
    products[n] = s10, products[n + 1] = s11;
    products[2 * n] = s20, products[2 * n + 1] = s21;
}

static void one_by_four8(const int8_t *x, const int8_t *w, int32_t w_stride, int32_t depth, int32_t *products) {
    const int8_t *w0 = w, *w1 = w + w_stride, *w2 = w1 + w_stride, *w3 = w2 + w_stride;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, d;
    for (d = depth / 16; d > 0; d--) {
        int8x16_t u = vldrbq_s8(x);
        s0 = vmladavaq_s8(s0, u, vldrbq_s8(w0));
        s1 = vmladavaq_s8(s1, u, vldrbq_s8(w1));
        s2 = vmladavaq_s8(s2, u, vldrbq_s8(w2));
        s3 = vmladavaq_s8(s3, u, vldrbq_s8(w3));
        x += 16, w0 += 16, w1 += 16, w2 += 16, w3 += 16;
    }
    products[0] = s0, products[1] = s1, products[2] = s2, products[3] = s3;
}

void cpep_multiply8(cpep_rows8 a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, j;
    for (i = 0; i + 3 <= a.n; i += 3) {
        for (j = 0; j < b.n; j += 2) {
            three_by_two8(a.first + i * a.stride, a.stride, b.first + j * b.stride, b.stride, depth,
                          products + i * b.n + j, b.n);
        }
    }
    for (; i < a.n; i++) {
        for (j = 0; j < b.n; j += 4) {
            one_by_four8(a.first + i * a.stride, b.first + j * b.stride, b.stride, depth, products + i * b.n + j);
        }
    }
}

static void three_by_two16(const int16_t *x, int32_t x_stride, const int8_t *w, int32_t w_stride, int32_t depth,
                           int32_t *products, int32_t n) {
    const int16_t *x0 = x, *x1 = x + x_stride, *x2 = x1 + x_stride;
    const int8_t *w0 = w, *w1 = w + w_stride;
    int32_t s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, d;
    for (d = depth / 8; d > 0; d--) {
        int16x8_t v0 = vldrbq_s16(w0), v1 = vldrbq_s16(w1), u0 = vldrhq_s16(x0), u1 = vldrhq_s16(x1),
                  u2 = vldrhq_s16(x2);
        s00 = vmladavaq_s16(s00, u0, v0);
        s01 = vmladavaq_s16(s01, u0, v1);
        s10 = vmladavaq_s16(s10, u1, v0);
        s11 = vmladavaq_s16(s11, u1, v1);
        s20 = vmladavaq_s16(s20, u2, v0);
        s21 = vmladavaq_s16(s21, u2, v1);
        x0 += 8, x1 += 8, x2 += 8, w0 += 8, w1 += 8;
    }
    products[0] = s00, products[1] = s01;
    products[n] = s10, products[n + 1] = s11;
    products[2 * n] = s20, products[2 * n + 1] = s21;
}

static void one_by_four16(const int16_t *x, const int8_t *w, int32_t w_stride, int32_t depth, int32_t *products) {
    const int8_t *w0 = w, *w1 = w + w_stride, *w2 = w1 + w_stride, *w3 = w2 + w_stride;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, d;
    for (d = depth / 8; d > 0; d--) {
        int16x8_t u = vldrhq_s16(x);
        s0 = vmladavaq_s16(s0, u, vldrbq_s16(w0));
        s1 = vmladavaq_s16(s1, u, vldrbq_s16(w1));
        s2 = vmladavaq_s16(s2, u, vldrbq_s16(w2));
        s3 = vmladavaq_s16(s3, u, vldrbq_s16(w3));
        x += 8, w0 += 8, w1 += 8, w2 += 8, w3 += 8;
    }
    products[0] = s0, products[1] = s1, products[2] = s2, products[3] = s3;
}

void cpep_multiply16(cpep_rows16 a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, j;
    for (i = 0; i + 3 <= a.n; i += 3) {
        for (j = 0; j < b.n; j += 2) {
            three_by_two16(a.first + i * a.stride, a.stride, b.first + j * b.stride, b.stride, depth,
                           products + i * b.n + j, b.n);
        }
    }
    for (; i < a.n; i++) {
        for (j = 0; j < b.n; j += 4) {
            one_by_four16(a.first + i * a.stride, b.first + j * b.stride, b.stride, depth, products + i * b.n + j);
        }
    }
}

void cpep_requantise(int32_t *products, int32_t n_rows, const cpep_linear *layer, int32_t first, int32_t n) {
    int32_t i, j;
    for (j = 0; j < n; j += 4) {
        int32x4_t bias = vldrwq_s32(layer->bias + first + j);
        int32x4_t multiplier = vldrwq_s32(layer->multiplier + first + j);
        int32_t *at = products + j;
        for (i = n_rows; i > 0; i--, at += n) {
            int32x4_t y = vqrdmulhq_s32(vaddq_s32(vldrwq_s32(at), bias), multiplier);
            vstrwq_s32(at, vrshlq_n_s32(y, -layer->shift));
        }
    }
}

static int32x4_t limited8(int32x4_t y) {
    return vminq_s32(vmaxq_s32(y, vdupq_n_s32(-128)), vdupq_n_s32(127));
}

void cpep_store8(const int32_t *y, int32_t n, int8_t *to, int32_t step) {
    int32_t i;
    if (step == 1) {
        for (i = 0; i < n; i += 4) vstrbq_s32(to + i, limited8(vldrwq_s32(y + i)));
    } else {
        uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
        for (i = 0; i < n; i += 4, to += 4 * step) {
            vstrbq_scatter_offset_s32(to, places, limited8(vldrwq_s32(y + i)));
        }
    }
}

void cpep_store_gelu(const int32_t *y, int32_t n, const int8_t *table, int8_t *to) {
    int32_t i;
    for (i = 0; i < n; i += 4) {
        int32x4_t entry = vminq_s32(vmaxq_s32(vldrwq_s32(y + i), vdupq_n_s32(0)), vdupq_n_s32(CPEP_GELU_ENTRIES - 1));
        vstrbq_s32(to + i, vldrbq_gather_offset_s32(table, vreinterpretq_u32_s32(entry)));
    }
}

void cpep_add16(const int32_t *y, int32_t n, int16_t *to) {
    int32_t i;
    for (i = 0; i < n; i += 4) {
        int32x4_t sum = vaddq_s32(vldrhq_s32(to + i), vldrwq_s32(y + i));
        vstrhq_s32(to + i, vminq_s32(vmaxq_s32(sum, vdupq_n_s32(INT16_MIN)), vdupq_n_s32(INT16_MAX)));
    }
}

void cpep_scale32_to8(const int32_t *x, int32_t n, int32_t multiplier, int32_t shift, int8_t *y) {
    int32_t i;
    for (i = 0; i < n; i += 4) {
        vstrbq_s32(y + i, limited8(vrshlq_n_s32(vqrdmulhq_n_s32(vldrwq_s32(x + i), multiplier), -shift)));
    }
}

uint64_t cpep_square_sum(const int16_t *x, int32_t n) {
    int64_t sum = 0;
    int32_t i;
    for (i = 0; i < n; i += 8) {
        int16x8_t u = vldrhq_s16(x + i);
        sum = vmlaldavaq_s16(sum, u, u);
    }
    return (uint64_t)sum;
}

void cpep_scale16_to8(const int16_t *x, int32_t n, int32_t multiplier, int32_t shift, int8_t *y) {
    int16x8_t m = vdupq_n_s16((int16_t)multiplier);
    int32_t i;
    for (i = 0; i < n; i += 8) {
        int16x8_t u = vldrhq_s16(x + i);
        int32x4_t even = vrshlq_n_s32(vmullbq_int_s16(u, m), -shift), odd = vrshlq_n_s32(vmulltq_int_s16(u, m), -shift);
        int16x8_t narrow = vqmovntq_s32(vqmovnbq_s32(u, even), odd);
        vstrbq_s16(y + i, vminq_s16(vmaxq_s16(narrow, vdupq_n_s16(-128)), vdupq_n_s16(127)));
    }
}

#endif
