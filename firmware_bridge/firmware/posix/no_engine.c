/* Replaces recogniser.c in a band that only streams. */
#include <stddef.h>

#include "recogniser.h"

const cpep_band_classifier *recogniser_open(uint32_t n_channels, uint32_t hop_samples, uint64_t (*clock_us)(void *context),
                                       void *context) {
    (void)n_channels, (void)hop_samples, (void)clock_us, (void)context;
    return NULL;
}
