/* The loops that take most of the time, in three versions that give the same bits.

   Plain C is the reference and runs anywhere. On Arm, CPEP_DSP uses the instructions of Cortex-M4 and M7 that compute
   two 16-bit products, and CPEP_MVE the vectors of Cortex-M55. CPEP_PLAIN forces the reference. */
#ifndef CPEP_KERNELS_H
#define CPEP_KERNELS_H

#include <stdint.h>

#if !defined(CPEP_PLAIN) && defined(__ARM_FEATURE_MVE)
#define CPEP_MVE 1
#define CPEP_DSP 0
#elif !defined(CPEP_PLAIN) && defined(__ARM_FEATURE_DSP) && defined(__arm__)
#define CPEP_MVE 0
#define CPEP_DSP 1
#else
#define CPEP_MVE 0
#define CPEP_DSP 0
#endif

#include "model.h"

#if CPEP_LAYERS
typedef struct {
    const int8_t *first;
    int32_t stride; /* between rows */
    int32_t n;
} cpep_rows8;

typedef struct {
    const int16_t *first;
    int32_t stride;
    int32_t n;
} cpep_rows16;

/* products[i * b.n + j] = row i of a times row j of b. b.n is a multiple of 4, depth of 16. */
void cpep_multiply8(cpep_rows8 a, cpep_rows8 b, int32_t depth, int32_t *products);
void cpep_multiply16(cpep_rows16 a, cpep_rows8 b, int32_t depth, int32_t *products);

/* The product of two rows; n is a multiple of 16. */
int32_t cpep_multiply_row(const int16_t *x, const int8_t *w, int32_t n);

/* Turn products, (n_rows, n), into outputs `first` to `first + n` of a layer, in place; n is a multiple of 4. */
void cpep_requantise(int32_t *products, int32_t n_rows, const cpep_linear *layer, int32_t first, int32_t n);

/* Store n requantised outputs, n a multiple of 4: clamped to 8 bits, `step` apart in memory; as indices into the table
   of GELU, whose entries are stored; or added to 16-bit numbers. */
void cpep_store8(const int32_t *y, int32_t n, int8_t *to, int32_t step);
void cpep_store_gelu(const int32_t *y, int32_t n, const int8_t *table, int8_t *to);
void cpep_add16(const int32_t *y, int32_t n, int16_t *to);

/* y = x * multiplier / 2^(31 + shift), clamped to 8 bits; n is a multiple of 4, multiplier < 2^30, 1 <= shift <= 31. */
void cpep_scale32_to8(const int32_t *x, int32_t n, int32_t multiplier, int32_t shift, int8_t *y);

/* Sum of squares of n numbers, n a multiple of 16. */
uint64_t cpep_square_sum(const int16_t *x, int32_t n);

/* y = x * multiplier / 2^shift, clamped to 8 bits; n is a multiple of 16, multiplier >= 0. */
void cpep_scale16_to8(const int16_t *x, int32_t n, int32_t multiplier, int32_t shift, int8_t *y);
#endif

#endif
