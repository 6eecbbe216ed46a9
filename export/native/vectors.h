// Marks functions that are compiled twice on x86-64: for processors with AVX2, and for all. The loader chooses one.
// Both round alike, because AVX2 is used without fused multiply-adds.
#ifndef CPEP_VECTORS

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CPEP_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define CPEP_VECTORS
#endif

#endif
