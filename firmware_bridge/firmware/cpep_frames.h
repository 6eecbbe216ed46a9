/* Every frame of PROTOCOL.md as a struct, with encoding and decoding. Fields are in the order of the wire. */
#ifndef CPEP_FRAMES_H
#define CPEP_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "cpep_wire.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CPEP_FRAME_VERSION 1
#define CPEP_FRAME_DATA_HEADER_BYTES 20u

enum { /* types */
    CPEP_FRAME_INFO = 0x01,
    CPEP_FRAME_DATA = 0x10,
    CPEP_FRAME_END = 0x11,
    CPEP_FRAME_TELEMETRY = 0x20,
    CPEP_FRAME_PONG = 0x30,
    CPEP_FRAME_ACK = 0x40,
    CPEP_FRAME_NAK = 0x41,
    CPEP_FRAME_LOG = 0x50,
    CPEP_FRAME_PREDICTION = 0x60,
    CPEP_FRAME_BENCH_RESULT = 0x61,
    CPEP_FRAME_IDENTIFY = 0x81,
    CPEP_FRAME_CONFIG = 0x82,
    CPEP_FRAME_START = 0x83,
    CPEP_FRAME_STOP = 0x84,
    CPEP_FRAME_PING = 0x85,
    CPEP_FRAME_BENCH = 0x86,
    CPEP_FRAME_CALIBRATE = 0x87
};
enum { CPEP_FRAME_I16 = 0, CPEP_FRAME_I24 = 1, CPEP_FRAME_SAME_FORMAT = 255 };
enum { /* flags of DATA */
    CPEP_FRAME_OVERRUN = 1,
    CPEP_FRAME_SATURATION = 2,
    CPEP_FRAME_LEAD_OFF = 4,
    CPEP_FRAME_TRIGGER = 8,
    CPEP_FRAME_TEST_SIGNAL = 16
};
enum { /* capabilities */
    CPEP_FRAME_CAN_TELEMETRY = 1,
    CPEP_FRAME_CAN_CONFIG = 2,
    CPEP_FRAME_CAN_PREDICT = 4,
    CPEP_FRAME_CAN_BENCH = 8,
    CPEP_FRAME_CAN_CALIBRATE = 16
};
enum { CPEP_FRAME_UNSUPPORTED = 1, CPEP_FRAME_BAD_VALUE = 2, CPEP_FRAME_NOT_NOW = 3 }; /* codes of NAK */

typedef struct {
    const uint8_t *bytes;
    uint8_t n;
} cpep_frame_text;

#define CPEP_FRAME_TEXT(literal) {(const uint8_t *)(literal), (uint8_t)(sizeof(literal) - 1u)}

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
    cpep_frame_text channel_order;
    cpep_frame_text model;
    cpep_frame_text serial_number;
    cpep_frame_text firmware;
} cpep_frame_info;

typedef struct {
    uint32_t sample_index;
    uint64_t t_us;
    uint8_t n_samples;
    uint8_t n_channels;
    uint8_t sample_format;
    uint8_t flags;
    const uint8_t *samples; /* cpep_frame_samples_bytes of them */
} cpep_frame_data;

typedef struct {
    uint64_t t_us;
    uint32_t sample_index;
} cpep_frame_end;

typedef struct {
    uint64_t t_us;
    uint16_t battery_mv;
    int32_t battery_current_ua;
    uint8_t charge_percent;
    float temperature_c;
    uint32_t adc_overruns;
    uint32_t tx_overruns;
} cpep_frame_telemetry;

typedef struct {
    uint64_t t_rx_us;
    uint64_t t_tx_us;
} cpep_frame_pong;

typedef struct {
    uint8_t command;
} cpep_frame_ack;

typedef struct {
    uint8_t command;
    uint8_t code;
    cpep_frame_text text;
} cpep_frame_nak;

typedef struct {
    uint64_t t_us;
    uint8_t level;
    cpep_frame_text text;
} cpep_frame_log;

typedef struct {
    uint64_t t_us;
    uint32_t sample_index;
    uint16_t gesture_id;
    float confidence;
    uint32_t encoder_us;
    uint32_t total_us;
} cpep_frame_prediction;

typedef struct {
    uint32_t n_runs;
    uint32_t p50_us;
    uint32_t p95_us;
    uint32_t p99_us;
    uint32_t max_us;
    uint32_t arena_bytes;
    float energy_uj;
} cpep_frame_bench_result;

typedef struct {
    float sample_rate_hz;
    uint8_t n_samples;
    uint8_t sample_format;
} cpep_frame_config;

typedef struct {
    uint16_t n_runs;
} cpep_frame_bench;

typedef struct {
    uint8_t turn;
    cpep_frame_text gains; /* numbers, each for `cpep_frame_f32` */
} cpep_frame_calibrate;

typedef struct {
    uint8_t type;
    uint16_t seq;
    union {
        cpep_frame_info info;
        cpep_frame_data data;
        cpep_frame_end end;
        cpep_frame_telemetry telemetry;
        cpep_frame_pong pong;
        cpep_frame_ack ack;
        cpep_frame_nak nak;
        cpep_frame_log log;
        cpep_frame_prediction prediction;
        cpep_frame_bench_result bench_result;
        cpep_frame_config config;
        cpep_frame_bench bench;
        cpep_frame_calibrate calibrate;
    } as; /* IDENTIFY, START, STOP and PING have no fields */
} cpep_frame;

typedef enum { CPEP_FRAME_INTACT, CPEP_FRAME_CORRUPT, CPEP_FRAME_UNKNOWN } cpep_frame_verdict;

/* Size of the samples of a DATA frame; 0 for an unknown format. */
uint32_t cpep_frame_samples_bytes(uint32_t n_samples, uint32_t n_channels, uint32_t sample_format);

/* Read a little-endian f32 from four bytes of a frame. */
float cpep_frame_f32(const uint8_t *bytes);

/* Begin a frame, with all its fields zero. */
void cpep_frame_clear(cpep_frame *f, uint8_t type, uint16_t seq);

/* Encode a frame for the wire, delimiter included, and return its length; 0 when it would be too long or its type or
   format is unknown. */
uint32_t cpep_frame_encode(cpep_frame *f, uint8_t wire[CPEP_WIRE_MAX_BYTES + 1u]);

/* Decode the bytes between two delimiters. `wire` is overwritten, and texts and samples of the frame point into it. */
cpep_frame_verdict cpep_frame_decode(uint8_t *wire, uint32_t n, cpep_frame *f);

#ifdef __cplusplus
}
#endif

#endif
