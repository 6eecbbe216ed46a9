/* libFuzzer: any bytes through the decoder, once as they come and once dressed as an intact frame, which chance alone
   would never make. What it accepts must survive being written and read again. */
#include <stdlib.h>
#include <string.h>

#include "../decoder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

/* Written, read and written again, a frame stays the same to the byte. */
static void check(frame *f) {
    static uint8_t first[WIRE_MAX_BYTES + 1u], read[WIRE_MAX_BYTES + 1u], second[WIRE_MAX_BYTES + 1u];
    frame again;
    const uint32_t n = frame_encode(f, first);
    require(n > 0 && n <= sizeof first);
    require(first[n - 1u] == WIRE_DELIMITER && memchr(first, WIRE_DELIMITER, n - 1u) == NULL);
    memcpy(read, first, n);
    require(frame_decode(read, n - 1u, &again) == FRAME_INTACT);
    require(frame_encode(&again, second) == n && memcmp(first, second, n) == 0);
}

static void feed(decoder *d, const uint8_t *data, size_t size) {
    frame f;
    size_t i;
    for (i = 0; i < size; i++) {
        if (decoder_take(d, data[i], &f)) check(&f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t large[WIRE_MAX_BYTES], small[64];
    const bool is_small = size > 0 && data[size - 1u] % 4u == 0;
    uint8_t body[WIRE_MAX_BODY_BYTES], wire[WIRE_MAX_BYTES];
    const size_t n = size < sizeof body - WIRE_CRC_BYTES ? size : sizeof body - WIRE_CRC_BYTES;
    decoder d;
    uint32_t crc, i;
    decoder_init(&d, is_small ? small : large, is_small ? sizeof small : sizeof large);
    feed(&d, data, size);
    memcpy(body, data, n);
    crc = wire_crc32(body, (uint32_t)n);
    for (i = 0; i < WIRE_CRC_BYTES; i++) body[n + i] = (uint8_t)(crc >> (8u * i));
    feed(&d, (const uint8_t *)"", 1);
    feed(&d, wire, wire_cobs_encode(body, (uint32_t)n + WIRE_CRC_BYTES, wire));
    feed(&d, (const uint8_t *)"", 1);
    require(d.counts.bytes >= d.counts.corrupt_bytes + d.counts.skipped_bytes);
    return 0;
}
