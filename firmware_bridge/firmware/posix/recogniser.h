/* The engine of a model exported for Cortex-M, as the band's classifier. Built in with make ENGINE=FOLDER;
   without it `no_engine.c` stands in its place. */
#ifndef CPEP_RECOGNISER_H
#define CPEP_RECOGNISER_H

#include "../cpep_band.h"

/* A classifier that decides every `hop_samples`; `clock_us` is the band's. Null when the model has another number of
   channels, or there is none. There is one engine, so there may be one such classifier. */
const cpep_band_classifier *recogniser_open(uint32_t n_channels, uint32_t hop_samples, uint64_t (*clock_us)(void *context),
                                       void *context);

#endif
