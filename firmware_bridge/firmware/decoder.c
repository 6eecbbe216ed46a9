#include "decoder.h"

void decoder_init(decoder *d, uint8_t *buffer, uint32_t capacity) {
    wire_clear(d, sizeof *d);
    d->buffer = buffer;
    d->capacity = capacity;
}

static void reject(decoder *d, uint32_t n) {
    if (!d->synced) {
        d->counts.skipped_bytes += n;
        return;
    }
    d->counts.corrupt_frames++;
    d->counts.corrupt_bytes += n;
}

static bool finish(decoder *d, frame *f) {
    const uint32_t n = d->n;
    frame_verdict verdict;
    d->n = 0;
    if (n == 0) return false;
    verdict = frame_decode(d->buffer, n, f);
    if (verdict == FRAME_CORRUPT) reject(d, n);
    if (verdict == FRAME_UNKNOWN) d->counts.unknown_frames++;
    if (verdict == FRAME_INTACT) d->counts.frames++;
    return verdict == FRAME_INTACT;
}

static void keep(decoder *d, uint8_t byte) {
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

bool decoder_take(decoder *d, uint8_t byte, frame *f) {
    bool complete;
    d->counts.bytes++;
    if (byte != WIRE_DELIMITER) {
        keep(d, byte);
        return false;
    }
    complete = finish(d, f);
    d->synced = true;
    d->overlong = false;
    return complete;
}
