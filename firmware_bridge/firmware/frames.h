/* Every frame of PROTOCOL.md as a struct, and its bytes. The fields stand in the order of the wire. */
#ifndef CPEP_FRAMES_H
#define CPEP_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

#define FRAME_VERSION 1
#define FRAME_DATA_HEADER_BYTES 20u

enum { /* types */
    FRAME_INFO = 0x01,
    FRAME_DATA = 0x10,
    FRAME_END = 0x11,
    FRAME_TELEMETRY = 0x20,
    FRAME_PONG = 0x30,
    FRAME_ACK = 0x40,
    FRAME_NAK = 0x41,
    FRAME_LOG = 0x50,
    FRAME_PREDICTION = 0x60,
    FRAME_BENCH_RESULT = 0x61,
    FRAME_IDENTIFY = 0x81,
    FRAME_CONFIG = 0x82,
    FRAME_START = 0x83,
    FRAME_STOP = 0x84,
    FRAME_PING = 0x85,
    FRAME_BENCH = 0x86,
    FRAME_CALIBRATE = 0x87
};
enum { FRAME_I16 = 0, FRAME_I24 = 1, FRAME_SAME_FORMAT = 255 };
enum { FRAME_OVERRUN = 1, FRAME_SATURATION = 2, FRAME_LEAD_OFF = 4, FRAME_TRIGGER = 8, FRAME_TEST_SIGNAL = 16 };
enum { FRAME_CAN_TELEMETRY = 1, FRAME_CAN_CONFIG = 2, FRAME_CAN_PREDICT = 4, FRAME_CAN_BENCH = 8, FRAME_CAN_CALIBRATE = 16 };
enum { FRAME_UNSUPPORTED = 1, FRAME_BAD_VALUE = 2, FRAME_NOT_NOW = 3 }; /* codes of NAK */

typedef struct {
    const uint8_t *bytes;
    uint8_t n;
} frame_text;

#define FRAME_TEXT(literal) {(const uint8_t *)(literal), (uint8_t)(sizeof(literal) - 1u)}

typedef struct {
    uint32_t boot_id;
    float uv_per_count;
    float sample_rate_hz;
    uint32_t baud;
    uint32_t capabilities;
    uint8_t n_samples;
    uint8_t n_channels;
    uint8_t sample_format;
    uint8_t state;
    frame_text channel_order;
    frame_text model;
    frame_text serial_number;
    frame_text firmware;
} frame_info;

typedef struct {
    uint32_t sample_index;
    uint64_t t_us;
    uint8_t n_samples;
    uint8_t n_channels;
    uint8_t sample_format;
    uint8_t flags;
    const uint8_t *samples; /* frame_samples_bytes of them */
} frame_data;

typedef struct {
    uint64_t t_us;
    uint32_t sample_index;
} frame_end;

typedef struct {
    uint64_t t_us;
    uint16_t battery_mv;
    int32_t battery_current_ua;
    uint8_t charge_percent;
    float temperature_c;
    uint32_t adc_overruns;
    uint32_t tx_overruns;
} frame_telemetry;

typedef struct {
    uint64_t t_rx_us;
    uint64_t t_tx_us;
} frame_pong;

typedef struct {
    uint8_t command;
} frame_ack;

typedef struct {
    uint8_t command;
    uint8_t code;
    frame_text text;
} frame_nak;

typedef struct {
    uint64_t t_us;
    uint8_t level;
    frame_text text;
} frame_log;

typedef struct {
    uint64_t t_us;
    uint32_t sample_index;
    uint16_t gesture_id;
    float confidence;
    uint32_t encoder_us;
    uint32_t total_us;
} frame_prediction;

typedef struct {
    uint32_t n_runs;
    uint32_t p50_us;
    uint32_t p95_us;
    uint32_t p99_us;
    uint32_t max_us;
    uint32_t arena_bytes;
    float energy_uj;
} frame_bench_result;

typedef struct {
    float sample_rate_hz;
    uint8_t n_samples;
    uint8_t sample_format;
} frame_config;

typedef struct {
    uint16_t n_runs;
} frame_bench;

typedef struct {
    uint8_t turn;
    frame_text gains; /* numbers, each for `frame_f32` */
} frame_calibrate;

typedef struct {
    uint8_t type;
    uint16_t seq;
    union {
        frame_info info;
        frame_data data;
        frame_end end;
        frame_telemetry telemetry;
        frame_pong pong;
        frame_ack ack;
        frame_nak nak;
        frame_log log;
        frame_prediction prediction;
        frame_bench_result bench_result;
        frame_config config;
        frame_bench bench;
        frame_calibrate calibrate;
    } as; /* IDENTIFY, START, STOP and PING have no fields */
} frame;

typedef enum { FRAME_INTACT, FRAME_CORRUPT, FRAME_UNKNOWN } frame_verdict;

/* Size of the samples of a DATA frame; 0 for a format that there is not. */
uint32_t frame_samples_bytes(uint32_t n_samples, uint32_t n_channels, uint32_t sample_format);

/* The number in four bytes of a frame. */
float frame_f32(const uint8_t *bytes);

/* Begin a frame: all its fields are zero. */
void frame_clear(frame *f, uint8_t type, uint16_t seq);

/* Write the frame as it goes over the wire, delimiter included, and return its length: 0 when it would be too long or
   contradicts itself. */
uint32_t frame_encode(frame *f, uint8_t wire[WIRE_MAX_BYTES + 1u]);

/* Read what stood between two delimiters; `wire` is overwritten, and texts and samples point into it. */
frame_verdict frame_decode(uint8_t *wire, uint32_t n, frame *f);

#endif
