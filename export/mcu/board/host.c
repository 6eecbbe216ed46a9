#include "host.h"

#include <string.h>

uint32_t cpep_size_bytes(void) {
    return sizeof(cpep);
}

uint32_t cpep_decider_bytes(void) {
    return sizeof(cpep_decider);
}

void cpep_push_samples(cpep *c, const int32_t *samples, uint32_t n_samples) {
    uint32_t i;
    for (i = 0; i < n_samples; i++) cpep_push(c, samples + i * CPEP_CHANNELS);
}

void cpep_read_window(cpep *c, cpep_step *steps) {
    const int32_t n_old = (CPEP_WINDOW - c->head) * CPEP_INPUTS, n_new = c->head * CPEP_INPUTS;
#if CPEP_BANDS
    cpep_take_tokens(c);
#endif
    memcpy(steps, c->ring + n_new, (size_t)n_old * sizeof *steps);
    memcpy(steps + n_old, c->ring, (size_t)n_new * sizeof *steps);
}

#if CPEP_BANDS
void cpep_read_mean(const cpep *c, float *mean) {
    memcpy(mean, c->front_end.mean, sizeof c->front_end.mean);
}
#endif
