#include "kernels.h"

#if CPEP_LAYERS && CPEP_MVE

#include <arm_mve.h>

#define NAME(what) what##8
#define ROWS cpep_rows8
#define NUMBER int8_t
#define VECTOR int8x16_t
#define LANES 16
#define LOAD_X vldrbq_s8
#define LOAD_W vldrbq_s8
#define MULTIPLY_ADD vmladavaq_s8
#include "multiply_mve.h"

#define NAME(what) what##16
#define ROWS cpep_rows16
#define NUMBER int16_t
#define VECTOR int16x8_t
#define LANES 8
#define LOAD_X vldrhq_s16
#define LOAD_W vldrbq_s16
#define MULTIPLY_ADD vmladavaq_s16
#include "multiply_mve.h"

int32_t cpep_multiply_row(const int16_t *x, const int8_t *w, int32_t n) {
    int32_t sum = 0;
    for (n /= 8; n > 0; n--, x += 8, w += 8) sum = vmladavaq_s16(sum, vldrhq_s16(x), vldrbq_s16(w));
    return sum;
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
