/* Functions beside cpep.h for a program that loads the engine as a library at run time. */
#ifndef CPEP_HOST_H
#define CPEP_HOST_H

#include <stdint.h>

#include "cpep.h"
#include "decide.h"

uint32_t cpep_size_bytes(void);
uint32_t cpep_decider_bytes(void);

void cpep_push_samples(cpep *c, const int32_t *samples, uint32_t n_samples);

/* Read the last steps, oldest first: [CPEP_WINDOW][CPEP_INPUTS], with all logarithms computed. */
void cpep_read_window(cpep *c, cpep_step *steps);

#if CPEP_BANDS
/* Read the mean of the tokens of the window that was taken, [CPEP_INPUTS]. */
void cpep_read_mean(const cpep *c, float *mean);
#endif

#endif
