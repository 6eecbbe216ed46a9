/* Logarithm and exponential in single precision, from basic arithmetic alone, with the same bits on every processor.

   The functions of C libraries differ in the last place. The engine is compiled without contracted multiply-adds, and
   IEEE 754 defines how a root is rounded, so this file and mpf.c give the same bits everywhere. */
#ifndef CPEP_FLOATS_H
#define CPEP_FLOATS_H

#include <stdint.h>
#include <string.h>

#define CPEP_LN2_HIGH 0.693359375f /* 9 bits: its product with an exponent is exact */
#define CPEP_LN2_LOW (-2.12194440e-4f)

/* The natural logarithm of a normal positive number, to two units in the last place: that of a power of two, plus the
   series of the inverse hyperbolic tangent for the remaining factor, between the roots of 1/2 and of 2. */
static inline float cpep_log(float x) {
    uint32_t bits;
    int32_t exponent;
    float mantissa, s, square, series;
    memcpy(&bits, &x, sizeof bits);
    exponent = (int32_t)(bits - 0x3f3504f3u) >> 23; /* the constant is the root of 1/2 */
    bits -= (uint32_t)exponent << 23;
    memcpy(&mantissa, &bits, sizeof mantissa);
    s = (mantissa - 1.0f) / (mantissa + 1.0f);
    square = s * s;
    series = square * (1.0f / 3 + square * (1.0f / 5 + square * (1.0f / 7 + square * (1.0f / 9))));
    return (float)exponent * CPEP_LN2_HIGH + ((float)exponent * CPEP_LN2_LOW + (2 * s + 2 * s * series));
}

/* e to the power x, for x <= 0; zero below -87. */
static inline float cpep_exp(float x) {
    uint32_t bits;
    int32_t exponent;
    float rest, scale, sum = 1;
    int32_t n;
    if (!(x > -87.0f)) return 0;
    exponent = (int32_t)(x * 1.44269504f - 0.5f);
    rest = x - (float)exponent * CPEP_LN2_HIGH - (float)exponent * CPEP_LN2_LOW;
    for (n = 7; n > 0; n--) sum = 1 + sum * rest / (float)n;
    bits = (uint32_t)(exponent + 127) << 23;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

#endif
