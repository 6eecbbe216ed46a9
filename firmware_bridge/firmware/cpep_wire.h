/* What every frame has in common: CRC-32, and COBS, which leaves no zero byte but the one that ends the frame. */
#ifndef CPEP_WIRE_H
#define CPEP_WIRE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CPEP_WIRE_DELIMITER 0
#define CPEP_WIRE_CRC_BYTES 4u
#define CPEP_WIRE_MAX_BODY_BYTES 1024u /* with the CRC */
#define CPEP_WIRE_COBS_BYTES(n) ((n) / 254u + 1u) /* what COBS adds at most */
#define CPEP_WIRE_MAX_BYTES (CPEP_WIRE_MAX_BODY_BYTES + CPEP_WIRE_COBS_BYTES(CPEP_WIRE_MAX_BODY_BYTES)) /* without the delimiter */

/* Make n bytes zero, so that a board needs no memset. */
void cpep_wire_clear(void *bytes, uint32_t n);

/* CRC-32 of zlib and Ethernet. */
uint32_t cpep_wire_crc32(const uint8_t *bytes, uint32_t n);

/* Encode n bytes, and return how many they became. `encoded` holds n + CPEP_WIRE_COBS_BYTES(n) bytes; it may be the same
   buffer if the bytes stand at its end. */
uint32_t cpep_wire_cobs_encode(const uint8_t *bytes, uint32_t n, uint8_t *encoded);

/* Decode n bytes, none of them zero, in place; returns how many they became, and 0 when they are no COBS. */
uint32_t cpep_wire_cobs_decode(uint8_t *bytes, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
