#include "host.h"

#include <string.h>

uint32_t cpep_size_bytes(void) {
    return sizeof(cpep);
}

void cpep_read_window(const cpep *c, int16_t *samples) {
    const int32_t n_old = (CPEP_WINDOW - c->head) * CPEP_CHANNELS, n_new = c->head * CPEP_CHANNELS;
    memcpy(samples, c->ring + n_new, (size_t)n_old * sizeof *samples);
    memcpy(samples + n_old, c->ring, (size_t)n_new * sizeof *samples);
}
