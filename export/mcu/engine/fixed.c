#include "fixed.h"

cpep_real cpep_root(uint64_t square) {
    cpep_real root = {0, 0};
    uint64_t rest, bit;
    uint64_t twice = 0; /* twice the root found so far, times the place value of the next digit */
    while (square < (uint64_t)1 << 60) {
        square <<= 2;
        root.exponent++;
    }
    rest = square;
    for (bit = (uint64_t)1 << 60; bit != 0; bit >>= 2) { /* binary digit by digit, as by hand */
        if (rest >= twice + bit) {
            rest -= twice + bit;
            twice = (twice >> 1) + bit;
        } else {
            twice >>= 1;
        }
    }
    root.mantissa = (uint32_t)twice;
    return root;
}
