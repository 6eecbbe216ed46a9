/* The band's end of a line: a pty, a serial port, or standard input and output. It never waits. On request it loses,
   damages and repeats DATA frames at random, and counts them. */
#ifndef CPEP_LINE_H
#define CPEP_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "../cpep_wire.h"

typedef struct {
    int in_fd, out_fd;
    int far_fd; /* far end of a pty, kept open so that a host can close and reopen it; otherwise -1 */
    bool closed; /* by the other end */

    uint8_t frame[CPEP_WIRE_MAX_BYTES + 1u]; /* the frame being sent, delimiter included */
    uint32_t n, n_sent;
    uint32_t n_copies; /* copies still to be sent; 0 while the frame is not complete */

    double loss, corrupt, duplicate; /* probability of each fault for a DATA frame */
    uint64_t random;
    uint32_t n_lost, n_corrupted, n_duplicated;
    uint32_t lost_samples; /* samples in lost and corrupted frames */
} line;

/* Open a line; null on success, else the error message. */
const char *line_open_pty(line *l);
const char *line_open_tty(line *l, const char *path, uint32_t baud);
const char *line_open_stdio(line *l);

uint32_t line_receive(line *l, uint8_t *bytes, uint32_t size);
uint32_t line_transmit(line *l, const uint8_t *bytes, uint32_t size);

/* Send the bytes that the line did not take before; false while it is full. */
bool line_flush(line *l);

/* Whether there are bytes that the line did not take yet. */
bool line_is_full(const line *l);

/* How many sent bytes the host has not read yet; known for a pty only. */
uint32_t line_unread_bytes(const line *l);

#endif
