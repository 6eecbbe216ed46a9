#include "playback.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SWELL_SAMPLES 4096u
#define NOISE_BITS 11u

uint64_t playback_random(uint64_t *state) { /* xorshift64*, Vigna 2016 */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

const char *playback_open(playback *s, const char *path) {
    const int fd = open(path, O_RDONLY);
    struct stat status;
    void *mapped;
    if (fd < 0) return strerror(errno);
    if (fstat(fd, &status) != 0 || status.st_size == 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return "there is nothing in it to play";
    }
    s->size_bytes = (size_t)status.st_size;
    mapped = mmap(NULL, s->size_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return strerror(errno);
    s->recording = mapped;
    if (s->size_bytes % (s->n_channels * s->value_bytes) != 0) return "its size is not a whole number of samples";
    return NULL;
}

void playback_rewind(playback *s) {
    s->at = 0;
    s->index = 0;
}

static int32_t recorded(playback *s) {
    const uint32_t unused_bits = 32u - 8u * s->value_bytes;
    uint32_t bits = 0, i;
    for (i = 0; i < s->value_bytes; i++) bits |= (uint32_t)s->recording[s->at++] << (unused_bits + 8u * i);
    return (int32_t)bits / (1 << unused_bits); /* exact: the low bits are zero */
}

/* Noise whose level rises and falls; each channel has its maximum at another time. */
static int32_t noise(playback *s, uint32_t channel) {
    const uint32_t phase = (uint32_t)((s->index + channel * SWELL_SAMPLES / s->n_channels) % SWELL_SAMPLES);
    const uint32_t level = phase < SWELL_SAMPLES / 2u ? phase : SWELL_SAMPLES - phase;
    const int32_t white = (int32_t)(playback_random(&s->random) >> (64u - NOISE_BITS)) - (1 << (NOISE_BITS - 1u));
    return white * (int32_t)level / (int32_t)(SWELL_SAMPLES / 2u);
}

bool playback_next(playback *s, int32_t *counts) {
    uint32_t channel;
    if (s->recording != NULL && s->at == s->size_bytes) {
        if (!s->repeat) return false;
        s->at = 0;
    }
    for (channel = 0; channel < s->n_channels; channel++) {
        counts[channel] = s->recording != NULL ? recorded(s) : noise(s, channel);
    }
    s->index++;
    return true;
}
