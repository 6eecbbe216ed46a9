/* libFuzzer: feeds any bytes to the decoder, first as they are, then as the body of a frame with a correct CRC, which
   random bytes would never have. A frame that the decoder accepts must stay the same when encoded and decoded again. */
#include <stdlib.h>
#include <string.h>

#include "../cpep_decoder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

/* Require that a frame is equal, byte for byte, after it was encoded, decoded and encoded again. */
static void check(cpep_frame *f) {
    static uint8_t first[CPEP_WIRE_MAX_BYTES + 1u], read[CPEP_WIRE_MAX_BYTES + 1u], second[CPEP_WIRE_MAX_BYTES + 1u];
    cpep_frame again;
    const uint32_t n = cpep_frame_encode(f, first);
    require(n > 0 && n <= sizeof first);
    require(first[n - 1u] == CPEP_WIRE_DELIMITER && memchr(first, CPEP_WIRE_DELIMITER, n - 1u) == NULL);
    memcpy(read, first, n);
    require(cpep_frame_decode(read, n - 1u, &again) == CPEP_FRAME_INTACT);
    require(cpep_frame_encode(&again, second) == n && memcmp(first, second, n) == 0);
}

static void feed(cpep_decoder *d, const uint8_t *data, size_t size) {
    cpep_frame f;
    size_t i;
    for (i = 0; i < size; i++) {
        if (cpep_decoder_take(d, data[i], &f)) check(&f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t large[CPEP_WIRE_MAX_BYTES], small[64];
    const bool is_small = size > 0 && data[size - 1u] % 4u == 0;
    uint8_t body[CPEP_WIRE_MAX_BODY_BYTES], wire[CPEP_WIRE_MAX_BYTES];
    const size_t n = size < sizeof body - CPEP_WIRE_CRC_BYTES ? size : sizeof body - CPEP_WIRE_CRC_BYTES;
    cpep_decoder d;
    uint32_t crc, i;
    cpep_decoder_init(&d, is_small ? small : large, is_small ? sizeof small : sizeof large);
    feed(&d, data, size);
    memcpy(body, data, n);
    crc = cpep_wire_crc32(body, (uint32_t)n);
    for (i = 0; i < CPEP_WIRE_CRC_BYTES; i++) body[n + i] = (uint8_t)(crc >> (8u * i));
    feed(&d, (const uint8_t *)"", 1);
    feed(&d, wire, cpep_wire_cobs_encode(body, (uint32_t)n + CPEP_WIRE_CRC_BYTES, wire));
    feed(&d, (const uint8_t *)"", 1);
    require(d.counts.bytes >= d.counts.corrupt_bytes + d.counts.skipped_bytes);
    return 0;
}
