/* Golden stretches: raw signal and its exact results. The exporter writes golden.c. */
#ifndef CPEP_GOLDEN_H
#define CPEP_GOLDEN_H

#include <stdint.h>

#include "cpep.h"

typedef struct {
    const int32_t *samples; /* [n_samples][CPEP_CHANNELS], counts */
    int32_t n_samples;
    uint32_t first_index; /* of the first sample */
#if CPEP_BANDS
    float mean[CPEP_INPUTS]; /* of the window's tokens */
#endif
#if CPEP_LAYERS
    int16_t embedding[CPEP_EMBEDDING_DEPTH];
#endif
    cpep_vote vote;
} golden_stretch;

extern const golden_stretch golden_stretches[];
extern const int32_t n_golden_stretches;

#endif
