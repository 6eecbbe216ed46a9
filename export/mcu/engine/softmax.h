#ifndef CPEP_SOFTMAX_H
#define CPEP_SOFTMAX_H

#include "model.h"

#if CPEP_LAYERS
/* Shares of attention, not yet divided by their sum, which is returned; the largest is 32767. share: [CPEP_KEYS]. */
int32_t cpep_softmax(const int32_t *score, const cpep_head *head, int16_t *share);

/* Values mixed by such shares, divided by their sum, in 8 bits; [CPEP_HEAD_WIDTH]. */
void cpep_mix(const int32_t *product, const cpep_head *head, int32_t sum, int8_t *mixed);
#endif

#endif
