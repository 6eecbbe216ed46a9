#include "line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "../cpep_frames.h"
#include "playback.h"

static bool set_raw(int fd, speed_t speed) {
    struct termios settings;
    if (tcgetattr(fd, &settings) != 0) return false;
    settings.c_iflag = 0;
    settings.c_oflag = 0;
    settings.c_lflag = 0;
    settings.c_cflag = CS8 | CREAD | CLOCAL;
    settings.c_cc[VMIN] = 1;
    settings.c_cc[VTIME] = 0;
    if (speed != 0 && (cfsetispeed(&settings, speed) != 0 || cfsetospeed(&settings, speed) != 0)) return false;
    return tcsetattr(fd, TCSANOW, &settings) == 0;
}

static bool never_wait(int fd) {
    const int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

const char *line_open_pty(line *l) {
    const char *path;
    l->in_fd = l->out_fd = posix_openpt(O_RDWR | O_NOCTTY);
    if (l->in_fd < 0 || grantpt(l->in_fd) != 0 || unlockpt(l->in_fd) != 0) return strerror(errno);
    path = ptsname(l->in_fd);
    l->far_fd = path == NULL ? -1 : open(path, O_RDWR | O_NOCTTY);
    if (l->far_fd < 0 || !set_raw(l->far_fd, 0) || !never_wait(l->in_fd)) return strerror(errno);
    return NULL;
}

static speed_t speed_of(uint32_t baud) {
    static const struct {
        uint32_t baud;
        speed_t speed;
    } known[] = {
        {115200, B115200}, {230400, B230400},
#ifdef B921600
        {460800, B460800}, {921600, B921600}, {1500000, B1500000}, {2000000, B2000000}, {3000000, B3000000},
#endif
    };
    size_t i;
    for (i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].baud == baud) return known[i].speed;
    }
    return 0;
}

const char *line_open_tty(line *l, const char *path, uint32_t baud) {
    const speed_t speed = speed_of(baud);
    if (speed == 0) return "this system has no such baud rate";
    l->far_fd = -1;
    l->in_fd = l->out_fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (l->in_fd < 0 || !set_raw(l->in_fd, speed)) return strerror(errno);
    return NULL;
}

const char *line_open_stdio(line *l) {
    l->in_fd = STDIN_FILENO;
    l->out_fd = STDOUT_FILENO;
    l->far_fd = -1;
    return never_wait(l->in_fd) && never_wait(l->out_fd) ? NULL : strerror(errno);
}

static bool would_wait(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

uint32_t line_receive(line *l, uint8_t *bytes, uint32_t size) {
    const ssize_t n = read(l->in_fd, bytes, size);
    if (n == 0 || (n < 0 && !would_wait())) l->closed = true;
    return n > 0 ? (uint32_t)n : 0;
}

static bool happens(line *l, double chance) {
    return (double)(playback_random(&l->random) >> 11) * 0x1p-53 < chance;
}

/* How many samples the frame carries; 0 when it is no DATA. */
static uint32_t data_samples(const line *l) {
    uint8_t wire[CPEP_WIRE_MAX_BYTES];
    cpep_frame f;
    memcpy(wire, l->frame, l->n - 1u);
    return cpep_frame_decode(wire, l->n - 1u, &f) == CPEP_FRAME_INTACT && f.type == CPEP_FRAME_DATA ? f.as.data.n_samples : 0;
}

/* Draw the faults of the frame that is now complete. */
static void suffer(line *l) {
    const uint32_t n_samples = l->n > 1u ? data_samples(l) : 0;
    bool lost, corrupted, duplicated;
    l->n_sent = 0;
    l->n_copies = 1;
    if (n_samples == 0) return;
    lost = happens(l, l->loss);
    corrupted = happens(l, l->corrupt);
    duplicated = happens(l, l->duplicate);
    if (lost) {
        l->n_copies = l->n = 0;
        l->n_lost++;
    } else if (corrupted) {
        const uint64_t bit = playback_random(&l->random) % (8u * (l->n - 1u)); /* any but the delimiter's */
        l->frame[bit / 8u] ^= (uint8_t)(1u << bit % 8u);
        l->n_corrupted++;
    } else if (duplicated) {
        l->n_copies = 2;
        l->n_duplicated++;
    }
    if (lost || corrupted) l->lost_samples += n_samples;
}

bool line_flush(line *l) {
    while (l->n_copies > 0) {
        const ssize_t n = write(l->out_fd, l->frame + l->n_sent, l->n - l->n_sent);
        if (n < 0 && !would_wait()) l->closed = true;
        if (n <= 0) return false;
        l->n_sent += (uint32_t)n;
        if (l->n_sent < l->n) continue;
        l->n_sent = 0;
        l->n_copies--;
        if (l->n_copies == 0) l->n = 0;
    }
    return true;
}

uint32_t line_transmit(line *l, const uint8_t *bytes, uint32_t size) {
    uint32_t n = 0;
    while (n < size && line_flush(l)) {
        l->frame[l->n++] = bytes[n++];
        if (bytes[n - 1u] == CPEP_WIRE_DELIMITER) suffer(l);
    }
    line_flush(l);
    return n;
}

bool line_is_full(const line *l) { return l->n_copies > 0; }

uint32_t line_unread_bytes(const line *l) {
    int queued = 0;
    if (l->far_fd < 0 || ioctl(l->far_fd, FIONREAD, &queued) != 0 || queued < 0) queued = 0;
    return (uint32_t)queued + (l->n_copies > 0 ? l->n - l->n_sent : 0);
}
