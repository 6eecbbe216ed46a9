/* The encoding common to all frames: CRC-32, and COBS, after which the only zero byte is the frame's delimiter. */
#ifndef CPEP_WIRE_H
#define CPEP_WIRE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CPEP_WIRE_DELIMITER 0
#define CPEP_WIRE_CRC_BYTES 4u
#define CPEP_WIRE_MAX_BODY_BYTES 1024u /* with the CRC */
#define CPEP_WIRE_COBS_BYTES(n) ((n) / 254u + 1u) /* the most that COBS adds to n bytes */
#define CPEP_WIRE_MAX_BYTES (CPEP_WIRE_MAX_BODY_BYTES + CPEP_WIRE_COBS_BYTES(CPEP_WIRE_MAX_BODY_BYTES)) /* without the delimiter */

/* Set n bytes to zero, so that a board needs no memset. */
void cpep_wire_clear(void *bytes, uint32_t n);

/* CRC-32 of zlib and Ethernet. */
uint32_t cpep_wire_crc32(const uint8_t *bytes, uint32_t n);

/* Encode n bytes, and return the encoded length. `encoded` holds n + CPEP_WIRE_COBS_BYTES(n) bytes; it may be the same
   buffer if the bytes are at its end. */
uint32_t cpep_wire_cobs_encode(const uint8_t *bytes, uint32_t n, uint8_t *encoded);

/* Decode n bytes, none of them zero, in place; returns the decoded length, or 0 when they are not valid COBS. */
uint32_t cpep_wire_cobs_decode(uint8_t *bytes, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
