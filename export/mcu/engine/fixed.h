/* Fixed-point arithmetic. All rounding is half up, like the instructions of the vector unit. */
#ifndef CPEP_FIXED_H
#define CPEP_FIXED_H

#include <stdint.h>

static inline int32_t cpep_clamp(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : value > high ? high : value;
}

/* value * multiplier / 2^31; 0 <= multiplier < 2^30. */
static inline int32_t cpep_high_multiply(int32_t value, int32_t multiplier) {
    return (int32_t)(((int64_t)value * multiplier + ((int64_t)1 << 30)) >> 31);
}

/* value / 2^shift; 0 <= shift <= 31 and |value| < 2^30. */
static inline int32_t cpep_round_shift(int32_t value, int32_t shift) {
    return shift == 0 ? value : (value + ((int32_t)1 << (shift - 1))) >> shift;
}

/* value * multiplier / 2^shift; 1 <= shift <= 62. */
static inline int64_t cpep_scale(int32_t value, int32_t multiplier, int32_t shift) {
    return ((int64_t)value * multiplier + ((int64_t)1 << (shift - 1))) >> shift;
}

/* A positive real number: mantissa * 2^-exponent, 2^30 <= mantissa < 2^31. */
typedef struct {
    uint32_t mantissa;
    int32_t exponent;
} cpep_real;

/* The square root of a number, rounded down; 1 <= square < 2^62. */
cpep_real cpep_root(uint64_t square);

#endif
