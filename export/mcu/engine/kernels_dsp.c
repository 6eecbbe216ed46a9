#include "kernels.h"

#if CPEP_LAYERS && CPEP_DSP

#include <arm_acle.h>
#include <string.h>

/* Rows of a are rearranged once for many rows of b: up to six rows are interleaved, and of every four numbers 0 and 2
   come first, then 1 and 3, because that is how one instruction unpacks four weights. Six is the most, because the
   registers hold six sums, two pointers and their operands. */
#define MAX_ROWS 6
#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MAX_DEPTH                                                                                    \
    MAX2(MAX2(CPEP_PATCH_DEPTH, CPEP_HIDDEN_DEPTH),                                                  \
         MAX2(MAX2(CPEP_WIDTH_DEPTH, CPEP_HEAD_DEPTH), MAX2(CPEP_KEYS, CPEP_EMBEDDING_DEPTH)))
#define INLINE static inline __attribute__((always_inline))

static uint64_t lanes[MAX_DEPTH / 4 * MAX_ROWS]; /* four numbers of one row each */

INLINE uint32_t word_at(const void *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word); /* one load */
    return word;
}

INLINE uint32_t even_bytes(uint32_t word) {
    return (uint32_t)__sxtb16(word);
}

INLINE uint32_t odd_bytes(uint32_t word) {
    uint32_t odd;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(word));
    return odd;
}

INLINE uint64_t lane_of(uint32_t even, uint32_t odd) {
    return even | (uint64_t)odd << 32;
}

static void lay_out8(const int8_t *x, int32_t depth, uint64_t *lane, int32_t n_rows) {
    int32_t d, i;
    for (d = depth / 16; d > 0; d--) {
        for (i = 0; i < 4; i++, x += 4, lane += n_rows) {
            uint32_t word = word_at(x);
            *lane = lane_of(even_bytes(word), odd_bytes(word));
        }
    }
}

static void lay_out16(const int16_t *x, int32_t depth, uint64_t *lane, int32_t n_rows) {
    int32_t d, i;
    for (d = depth / 16; d > 0; d--) {
        for (i = 0; i < 4; i++, x += 4, lane += n_rows) {
            uint32_t low = word_at(x), high = word_at(x + 2);
            *lane = lane_of((low & 0xffffu) | high << 16, low >> 16 | (high & 0xffff0000u));
        }
    }
}

/* Multiply the rearranged rows with all rows of b. n_rows is a constant where this is inlined. */
INLINE void multiply_lanes(const int32_t n_rows, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, j;
    for (j = 0; j < b.n; j++) {
        const uint64_t *lane = lanes;
        const int8_t *w = b.first + j * b.stride, *end = w + depth;
        int32_t sums[MAX_ROWS] = {0};
        for (; w != end; w += 4, lane += n_rows) {
            uint32_t word = word_at(w), even = even_bytes(word), odd = odd_bytes(word);
            for (i = 0; i < n_rows; i++) {
                sums[i] = __smlad((int16x2_t)lane[i], (int16x2_t)even, sums[i]);
                sums[i] = __smlad((int16x2_t)(lane[i] >> 32), (int16x2_t)odd, sums[i]);
            }
        }
        for (i = 0; i < n_rows; i++) products[i * b.n + j] = sums[i];
    }
}

/* The loop that takes most of the time. It is in assembly, because the compiler splits its double loads and runs out of
   registers. */
#define ROW(sum, at)                                 \
    "ldrd %[x], %[y], [%[lane], #" at "]\n"          \
    "smlad %[" sum "], %[x], %[even], %[" sum "]\n"  \
    "smlad %[" sum "], %[y], %[odd], %[" sum "]\n"
#define FOUR_WEIGHTS(at, a0, a1, a2, a3, a4, a5) \
    "ldr %[even], [%[w], #" at "]\n"             \
    "sxtb16 %[odd], %[even], ror #8\n"           \
    "sxtb16 %[even], %[even]\n"                  \
    ROW("s0", a0) ROW("s1", a1) ROW("s2", a2) ROW("s3", a3) ROW("s4", a4) ROW("s5", a5)

static void multiply_six(cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t j;
    for (j = 0; j < b.n; j++, products++) {
        const uint64_t *lane = lanes;
        const int8_t *w = b.first + j * b.stride, *end = w + depth;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0;
        uint32_t even, odd, x, y;
        __asm__ volatile(
            "1:\n"
            FOUR_WEIGHTS("0", "0", "8", "16", "24", "32", "40")
            FOUR_WEIGHTS("4", "48", "56", "64", "72", "80", "88")
            FOUR_WEIGHTS("8", "96", "104", "112", "120", "128", "136")
            FOUR_WEIGHTS("12", "144", "152", "160", "168", "176", "184")
            "adds %[lane], #192\n"
            "adds %[w], #16\n"
            "cmp %[w], %[end]\n"
            "bne 1b\n"
            : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [s4] "+r"(s4), [s5] "+r"(s5),
              [lane] "+r"(lane), [w] "+r"(w), [even] "=&r"(even), [odd] "=&r"(odd), [x] "=&r"(x), [y] "=&r"(y)
            : [end] "r"(end)
            : "cc", "memory");
        products[0] = s0, products[b.n] = s1, products[2 * b.n] = s2;
        products[3 * b.n] = s3, products[4 * b.n] = s4, products[5 * b.n] = s5;
    }
}

static void multiply_three(cpep_rows8 b, int32_t depth, int32_t *products) {
    multiply_lanes(3, b, depth, products);
}

static void multiply_one(cpep_rows8 b, int32_t depth, int32_t *products) {
    multiply_lanes(1, b, depth, products);
}

static int32_t rows_at_once(int32_t n) {
    return n >= 6 ? 6 : n >= 3 ? 3 : 1;
}

static void multiply_laid_out(int32_t n_rows, cpep_rows8 b, int32_t depth, int32_t *products) {
    if (n_rows == 6) multiply_six(b, depth, products);
    if (n_rows == 3) multiply_three(b, depth, products);
    if (n_rows == 1) multiply_one(b, depth, products);
}

void cpep_multiply8(cpep_rows8 a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, row, n_rows;
    for (i = 0; i < a.n; i += n_rows) {
        n_rows = rows_at_once(a.n - i);
        for (row = 0; row < n_rows; row++) lay_out8(a.first + (i + row) * a.stride, depth, lanes + row, n_rows);
        multiply_laid_out(n_rows, b, depth, products + i * b.n);
    }
}

void cpep_multiply16(cpep_rows16 a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, row, n_rows;
    for (i = 0; i < a.n; i += n_rows) {
        n_rows = rows_at_once(a.n - i);
        for (row = 0; row < n_rows; row++) lay_out16(a.first + (i + row) * a.stride, depth, lanes + row, n_rows);
        multiply_laid_out(n_rows, b, depth, products + i * b.n);
    }
}

/* value * multiplier / 2^32, rounded. */
INLINE int32_t rounded_high(int32_t value, int32_t multiplier) {
    int32_t high;
    __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(value), "r"(multiplier));
    return high;
}

void cpep_requantise(int32_t *products, int32_t n_rows, const cpep_linear *layer, int32_t first, int32_t n) {
    const int32_t half = 1 << (layer->shift - 1), shift = layer->shift;
    int32_t i, j;
    for (j = 0; j < n; j++) {
        const int32_t bias = layer->bias[first + j], multiplier = layer->multiplier[first + j] * 2;
        int32_t *at = products + j;
        for (i = n_rows; i > 0; i--, at += n) *at = (rounded_high(*at + bias, multiplier) + half) >> shift;
    }
}

#endif
