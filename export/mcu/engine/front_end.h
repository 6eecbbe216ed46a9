#ifndef CPEP_FRONT_END_H
#define CPEP_FRONT_END_H

#include "cpep.h"

#if CPEP_BANDS
/* Forget nothing but where blocks begin: the next sample has this index. */
void cpep_front_end_reset(cpep_front_end *f, uint32_t sample_index);

/* The next sample; returns whether it completes a span, whose covariance, [CPEP_INPUTS], is then written. */
int cpep_front_end_push(cpep_front_end *f, const float scaled[CPEP_CHANNELS], float *covariance);

/* The mean of the tokens in the ring, all logarithms taken. */
void cpep_front_end_take(cpep *c);
#endif

#endif
