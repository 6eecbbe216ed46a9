/* The band's end of a line: a pty, a serial port, or standard input and output. It never waits, and on request it
   loses, damages and repeats DATA frames by chance, and counts what it did. */
#ifndef CPEP_LINE_H
#define CPEP_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "../cpep_wire.h"

typedef struct {
    int in_fd, out_fd;
    int far_fd; /* of a pty: kept open, so that hosts may come and go; -1 elsewhere */
    bool closed; /* by the other end */

    uint8_t frame[CPEP_WIRE_MAX_BYTES + 1u]; /* the frame on its way out, delimiter included */
    uint32_t n, n_sent;
    uint32_t n_copies; /* still to go out; 0 while the frame is being put together */

    double loss, corrupt, duplicate; /* chance of a DATA frame to suffer that */
    uint64_t random;
    uint32_t n_lost, n_corrupted, n_duplicated;
    uint32_t lost_samples; /* in the frames that were lost and corrupted */
} line;

/* Open one; null, or why that is impossible. */
const char *line_open_pty(line *l);
const char *line_open_tty(line *l, const char *path, uint32_t baud);
const char *line_open_stdio(line *l);

uint32_t line_receive(line *l, uint8_t *bytes, uint32_t size);
uint32_t line_transmit(line *l, const uint8_t *bytes, uint32_t size);

/* Send what the line did not take before; false while it is full. */
bool line_flush(line *l);

/* Whether there is something that the line did not take yet. */
bool line_is_full(const line *l);

/* Bytes that were sent and not read yet, as far as a pty tells. */
uint32_t line_unread_bytes(const line *l);

#endif
