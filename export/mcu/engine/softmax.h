#ifndef CPEP_SOFTMAX_H
#define CPEP_SOFTMAX_H

#include "model.h"

#if CPEP_LAYERS
/* Compute attention weights (shares), the largest being 32767, and return their sum, by which they are not yet divided.
   share: [CPEP_KEYS] */
int32_t cpep_softmax(const int32_t *score, const cpep_head *head, int16_t *share);

/* Divide values mixed by such shares, [CPEP_HEAD_WIDTH], by the sum of the shares, and write them in 8 bits. */
void cpep_mix(const int32_t *product, const cpep_head *head, int32_t sum, int8_t *mixed);
#endif

#endif
