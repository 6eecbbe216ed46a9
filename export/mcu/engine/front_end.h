#ifndef CPEP_FRONT_END_H
#define CPEP_FRONT_END_H

#include "cpep.h"

#if CPEP_BANDS
/* Set only where blocks begin: the next sample has this index. */
void cpep_front_end_reset(cpep_front_end *f, uint32_t sample_index);

/* Process the next sample. Returns whether it completes a span; if so, its covariance, [CPEP_INPUTS], is written. */
int cpep_front_end_push(cpep_front_end *f, const float scaled[CPEP_CHANNELS], float *covariance);

/* Compute the logarithms that are waiting, and the mean of the tokens in the ring buffer. */
void cpep_front_end_take(cpep *c);
#endif

#endif
