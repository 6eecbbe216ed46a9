/* The engine of a model exported for Cortex-M, as the band's classifier. Built with make ENGINE=FOLDER; otherwise
   `no_engine.c` is built instead. */
#ifndef CPEP_RECOGNISER_H
#define CPEP_RECOGNISER_H

#include "../cpep_band.h"

/* A classifier that decides every `hop_samples`; `clock_us` is the band's clock. Null without an engine, or when the
   model has another number of channels. There is one engine, so open only one classifier. */
const cpep_band_classifier *recogniser_open(uint32_t n_channels, uint32_t hop_samples, uint64_t (*clock_us)(void *context),
                                       void *context);

#endif
