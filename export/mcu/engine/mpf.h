/* Tokens of the front end: the matrix logarithm of a shrunk covariance, as cpep_edge.mpf has it.

   One source for the C library, in double precision, and for chips with a floating-point unit, in single precision: the
   former defines CPEP_MPF_DOUBLE. No heap, no state; the caller lends the memory. */
#ifndef CPEP_MPF_H
#define CPEP_MPF_H

#include <stddef.h>
#include <stdint.h>

#ifdef CPEP_MPF_DOUBLE
typedef double cpep_mpf_real;
#else
typedef float cpep_mpf_real;
#endif

/* Numbers of memory that a matrix of n electrodes takes. */
#define CPEP_MPF_WORK(n) (2 * (n) * (n) + 2 * (n))

/* The token of one band.

   covariance: [n][n], symmetric, not changed; only its upper triangle is read
   live: [n], zero for an electrode that is taken out of the matrix; NULL: all are live
   shrinkage: share of the mean power of the live electrodes that is added to each, and `floor` beside it
   token: [n (n + 1) / 2], the upper triangle of the logarithm, row by row, off-diagonals times the root of two
   work: CPEP_MPF_WORK(n) numbers */
void cpep_log_covariance(const cpep_mpf_real *covariance, int32_t n, const uint8_t *live, cpep_mpf_real shrinkage,
                         cpep_mpf_real floor, float *token, cpep_mpf_real *work);

#endif
