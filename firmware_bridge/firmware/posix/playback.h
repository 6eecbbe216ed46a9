/* The signal of the simulated electrodes: a recording, or noise that rises and falls like muscle activity. */
#ifndef CPEP_PLAYBACK_H
#define CPEP_PLAYBACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *recording; /* null: noise */
    size_t size_bytes;
    size_t at; /* of the next sample, in bytes */
    uint64_t index;
    uint32_t n_channels;
    uint32_t value_bytes; /* 2 or 3, little-endian */
    bool repeat;
    uint64_t random;
} playback;

/* Pseudo-random numbers; the same state gives the same numbers. */
uint64_t playback_random(uint64_t *state);

/* Map a file of raw values, [n_samples][n_channels]. Null on success, else the error message. */
const char *playback_open(playback *s, const char *path);

void playback_rewind(playback *s);

/* The next sample, [n_channels] counts; false after the last. */
bool playback_next(playback *s, int32_t *counts);

#endif
