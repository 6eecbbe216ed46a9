/* Finds frames in a stream of bytes. Noise is normal: it is counted, and skipped to the next delimiter. */
#ifndef CPEP_DECODER_H
#define CPEP_DECODER_H

#include "cpep_frames.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t bytes;
    uint32_t frames;
    uint32_t corrupt_frames; /* invalid COBS, wrong CRC, too long, or inconsistent lengths */
    uint32_t corrupt_bytes;
    uint32_t unknown_frames; /* intact, of another version or an unknown type */
    uint32_t skipped_bytes;  /* the rest of a frame that began before the line was opened */
} cpep_decoder_counts;

typedef struct {
    uint8_t *buffer;
    uint32_t capacity;
    uint32_t n;
    bool synced;   /* whether a delimiter was seen */
    bool overlong; /* whether the rest of an overlong frame is being skipped */
    cpep_decoder_counts counts;
} cpep_decoder;

/* The buffer must hold the longest expected frame, without delimiter; a longer one counts as corrupt. */
void cpep_decoder_init(cpep_decoder *d, uint8_t *buffer, uint32_t capacity);

/* Take the next byte; true when it completes a frame, whose texts and samples are valid until the next call. */
bool cpep_decoder_take(cpep_decoder *d, uint8_t byte, cpep_frame *f);

#ifdef __cplusplus
}
#endif

#endif
