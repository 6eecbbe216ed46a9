/* Tokens of the front end: the matrix logarithm of a shrunk covariance, as in cpep_edge.mpf.

   The same source serves the C library, in double precision (it defines CPEP_MPF_DOUBLE), and chips with a
   floating-point unit, in single precision. It uses no heap and no state; the caller provides the memory. */
#ifndef CPEP_MPF_H
#define CPEP_MPF_H

#include <stddef.h>
#include <stdint.h>

#ifdef CPEP_MPF_DOUBLE
typedef double cpep_mpf_real;
#else
typedef float cpep_mpf_real;
#endif

/* Size of the working memory for n electrodes, in numbers. */
#define CPEP_MPF_WORK(n) (2 * (n) * (n) + 2 * (n))

/* The token of one band.

   covariance: [n][n], symmetric, not changed; only its upper triangle is read
   live: [n], zero for an electrode to leave out of the matrix; NULL: all are live
   shrinkage: this share of the mean power of the live electrodes is added to the diagonal
   floor: also added to the diagonal
   token: [n (n + 1) / 2], the upper triangle of the logarithm, row by row, off-diagonals times the root of two
   work: CPEP_MPF_WORK(n) numbers */
void cpep_log_covariance(const cpep_mpf_real *covariance, int32_t n, const uint8_t *live, cpep_mpf_real shrinkage,
                         cpep_mpf_real floor, float *token, cpep_mpf_real *work);

#endif
