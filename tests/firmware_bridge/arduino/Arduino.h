/* A stub for a PC of the Arduino functions that the example sketch uses. Serial is the file descriptor given as first
   argument, and the converter counts up. Not a part of the project's firmware. */
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { A0 = 14, A1, A2, A3 };

inline uint32_t micros() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u);
}

inline int analogRead(uint8_t pin) {
    static uint32_t n;
    if (pin == A0) n++;
    return (int)((n + 100u * (uint32_t)(pin - A0)) % 1024u);
}

struct HostSerial {
    int line = -1;
    void begin(uint32_t) { fcntl(line, F_SETFL, O_NONBLOCK); }
    bool ready(short events) {
        pollfd one = {line, events, 0};
        return poll(&one, 1, 0) > 0 && (one.revents & events);
    }
    int available() { return ready(POLLIN); }
    int read() {
        uint8_t byte = 0;
        return ::read(line, &byte, 1) == 1 ? byte : -1;
    }
    int availableForWrite() { return ready(POLLOUT) ? 64 : 0; }
    size_t write(const uint8_t *bytes, size_t size) {
        const ssize_t n = ::write(line, bytes, size);
        return n > 0 ? (size_t)n : 0;
    }
};
static HostSerial Serial;

void setup();
void loop();

int main(int, char **words) {
    Serial.line = atoi(words[1]);
    setup();
    for (;;) {
        loop();
        usleep(500);
    }
}
