/* What every frame has in common: CRC-32, and COBS, which leaves no zero byte but the one that ends the frame. */
#ifndef CPEP_WIRE_H
#define CPEP_WIRE_H

#include <stdint.h>

#define WIRE_DELIMITER 0
#define WIRE_CRC_BYTES 4u
#define WIRE_MAX_BODY_BYTES 1024u /* with the CRC */
#define WIRE_COBS_BYTES(n) ((n) / 254u + 1u) /* what COBS adds at most */
#define WIRE_MAX_BYTES (WIRE_MAX_BODY_BYTES + WIRE_COBS_BYTES(WIRE_MAX_BODY_BYTES)) /* without the delimiter */

/* Make n bytes zero, so that a board needs no memset. */
void wire_clear(void *bytes, uint32_t n);

/* CRC-32 of zlib and Ethernet. */
uint32_t wire_crc32(const uint8_t *bytes, uint32_t n);

/* Encode n bytes, and return how many they became. `encoded` holds n + WIRE_COBS_BYTES(n) bytes; it may be the same
   buffer if the bytes stand at its end. */
uint32_t wire_cobs_encode(const uint8_t *bytes, uint32_t n, uint8_t *encoded);

/* Decode n bytes, none of them zero, in place; returns how many they became, and 0 when they are no COBS. */
uint32_t wire_cobs_decode(uint8_t *bytes, uint32_t n);

#endif
