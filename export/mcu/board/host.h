/* What a program that loads the engine at run time needs beside cpep.h. */
#ifndef CPEP_HOST_H
#define CPEP_HOST_H

#include <stdint.h>

#include "cpep.h"

uint32_t cpep_size_bytes(void);

/* The last filtered samples, oldest first: [CPEP_WINDOW][CPEP_CHANNELS]. */
void cpep_read_window(const cpep *c, int16_t *samples);

#endif
