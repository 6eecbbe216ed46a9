#include "cpep_decoder.h"

void cpep_decoder_init(cpep_decoder *d, uint8_t *buffer, uint32_t capacity) {
    cpep_wire_clear(d, sizeof *d);
    d->buffer = buffer;
    d->capacity = capacity;
}

static void reject(cpep_decoder *d, uint32_t n) {
    if (!d->synced) {
        d->counts.skipped_bytes += n;
        return;
    }
    d->counts.corrupt_frames++;
    d->counts.corrupt_bytes += n;
}

static bool finish(cpep_decoder *d, cpep_frame *f) {
    const uint32_t n = d->n;
    cpep_frame_verdict verdict;
    d->n = 0;
    if (n == 0) return false;
    verdict = cpep_frame_decode(d->buffer, n, f);
    if (verdict == CPEP_FRAME_CORRUPT) reject(d, n);
    if (verdict == CPEP_FRAME_UNKNOWN) d->counts.unknown_frames++;
    if (verdict == CPEP_FRAME_INTACT) d->counts.frames++;
    return verdict == CPEP_FRAME_INTACT;
}

static void keep(cpep_decoder *d, uint8_t byte) {
    if (d->overlong) {
        d->counts.corrupt_bytes++;
    } else if (d->n < d->capacity) {
        d->buffer[d->n++] = byte;
    } else {
        d->overlong = true;
        d->counts.corrupt_frames++;
        d->counts.corrupt_bytes += d->n + 1u;
        d->n = 0;
    }
}

bool cpep_decoder_take(cpep_decoder *d, uint8_t byte, cpep_frame *f) {
    bool complete;
    d->counts.bytes++;
    if (byte != CPEP_WIRE_DELIMITER) {
        keep(d, byte);
        return false;
    }
    complete = finish(d, f);
    d->synced = true;
    d->overlong = false;
    return complete;
}
