// Measures a core's peak int8 multiply-adds per second: dot products of independent registers without memory access.
//
//   gcc -O2 -mavx512f -mavx512vnni multiply_adds.c && ./a.out      prints the best of 500 rounds

#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { kRegisters = 12, kRounds = 500, kLoops = 40000, kLanes = 64 };

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(void) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    __m512i sums[kRegisters];
    const __m512i left = _mm512_set1_epi8((char)(round % 100)), right = _mm512_set1_epi8(3);
#pragma GCC unroll 12
    for (int i = 0; i < kRegisters; ++i) sums[i] = _mm512_setzero_si512();
    const double start = seconds();
    for (int loop = 0; loop < kLoops; ++loop) {
#pragma GCC unroll 12
      for (int i = 0; i < kRegisters; ++i) __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(sums[i]) : "v"(left), "v"(right));
    }
    const double took = seconds() - start;
    const double rate = (double)kRegisters * kLoops * kLanes / took;
    if (rate > best) best = rate;
  }
  printf("%.0f\n", best);
  return 0;
}
