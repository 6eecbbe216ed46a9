// Code that is compiled twice where processors differ: for the wider vectors of most, chosen as it is loaded, and for all.
// No rounding differs: AVX2 alone, without fused multiply-adds.
#ifndef CPEP_VECTORS

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CPEP_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define CPEP_VECTORS
#endif

#endif
