#include "cpep_frames.h"

#include <string.h>

#define VERSION_AND_TYPE_BYTES 2u
#define CRC_RESIDUE 0x2144DF1Cu /* CRC-32 of anything that ends in its own CRC-32 */
#define MIN_BODY_BYTES 8u

/* A body that is being written or read, field by field. One list of fields serves both directions. */
typedef struct {
    const uint8_t *in;
    uint8_t *out; /* null while reading */
    uint32_t at;
    uint32_t size;
    bool fits; /* whether all fields so far are within the body */
} cursor;

static bool claim(cursor *c, uint32_t n) {
    c->fits = c->fits && n <= c->size - c->at;
    return c->fits;
}

static uint64_t number(cursor *c, uint64_t value, uint32_t n) {
    uint64_t result = 0;
    uint32_t i;
    if (!claim(c, n)) return 0;
    for (i = 0; i < n; i++, c->at++) {
        if (c->out != NULL) c->out[c->at] = (uint8_t)(value >> (8u * i));
        result |= (uint64_t)c->in[c->at] << (8u * i);
    }
    return result;
}

static void u8(cursor *c, uint8_t *value) { *value = (uint8_t)number(c, *value, 1); }
static void u16(cursor *c, uint16_t *value) { *value = (uint16_t)number(c, *value, 2); }
static void u32(cursor *c, uint32_t *value) { *value = (uint32_t)number(c, *value, 4); }
static void u64(cursor *c, uint64_t *value) { *value = number(c, *value, 8); }

static void i32(cursor *c, int32_t *value) {
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    u32(c, &bits);
    memcpy(value, &bits, sizeof bits);
}

static void f32(cursor *c, float *value) {
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    u32(c, &bits);
    memcpy(value, &bits, sizeof bits);
}

static void bytes(cursor *c, const uint8_t **value, uint32_t n) {
    if (!claim(c, n)) return;
    if (c->out == NULL) {
        *value = c->in + c->at;
    } else if (n > 0) {
        memcpy(c->out + c->at, *value, n);
    }
    c->at += n;
}

static void text(cursor *c, cpep_frame_text *value) {
    u8(c, &value->n);
    bytes(c, &value->bytes, value->n);
}

static void info_fields(cursor *c, cpep_frame_info *info) {
    u32(c, &info->boot_id);
    f32(c, &info->uv_per_count);
    f32(c, &info->sample_rate_hz);
    u32(c, &info->baud);
    u32(c, &info->capabilities);
    u8(c, &info->n_samples);
    u8(c, &info->n_channels);
    u8(c, &info->sample_format);
    u8(c, &info->state);
    text(c, &info->channel_order);
    text(c, &info->model);
    text(c, &info->serial_number);
    text(c, &info->firmware);
}

static void data_fields(cursor *c, cpep_frame_data *data) {
    u32(c, &data->sample_index);
    u64(c, &data->t_us);
    u8(c, &data->n_samples);
    u8(c, &data->n_channels);
    u8(c, &data->sample_format);
    u8(c, &data->flags);
    if (data->sample_format > CPEP_FRAME_I24) c->fits = false;
    bytes(c, &data->samples, cpep_frame_samples_bytes(data->n_samples, data->n_channels, data->sample_format));
}

static void telemetry_fields(cursor *c, cpep_frame_telemetry *telemetry) {
    u64(c, &telemetry->t_us);
    u16(c, &telemetry->battery_mv);
    i32(c, &telemetry->battery_current_ua);
    u8(c, &telemetry->charge_percent);
    f32(c, &telemetry->temperature_c);
    u32(c, &telemetry->adc_overruns);
    u32(c, &telemetry->tx_overruns);
}

static void prediction_fields(cursor *c, cpep_frame_prediction *prediction) {
    u64(c, &prediction->t_us);
    u32(c, &prediction->sample_index);
    u16(c, &prediction->gesture_id);
    f32(c, &prediction->confidence);
    u32(c, &prediction->encoder_us);
    u32(c, &prediction->total_us);
}

static void bench_result_fields(cursor *c, cpep_frame_bench_result *result) {
    u32(c, &result->n_runs);
    u32(c, &result->p50_us);
    u32(c, &result->p95_us);
    u32(c, &result->p99_us);
    u32(c, &result->max_us);
    u32(c, &result->arena_bytes);
    f32(c, &result->energy_uj);
}

/* Read or write all fields after the type. False for an unknown type. */
static bool fields(cursor *c, cpep_frame *f) {
    u16(c, &f->seq);
    switch (f->type) {
    case CPEP_FRAME_INFO: info_fields(c, &f->as.info); return true;
    case CPEP_FRAME_DATA: data_fields(c, &f->as.data); return true;
    case CPEP_FRAME_END: u64(c, &f->as.end.t_us), u32(c, &f->as.end.sample_index); return true;
    case CPEP_FRAME_TELEMETRY: telemetry_fields(c, &f->as.telemetry); return true;
    case CPEP_FRAME_PONG: u64(c, &f->as.pong.t_rx_us), u64(c, &f->as.pong.t_tx_us); return true;
    case CPEP_FRAME_ACK: u8(c, &f->as.ack.command); return true;
    case CPEP_FRAME_NAK: u8(c, &f->as.nak.command), u8(c, &f->as.nak.code), text(c, &f->as.nak.text); return true;
    case CPEP_FRAME_LOG: u64(c, &f->as.log.t_us), u8(c, &f->as.log.level), text(c, &f->as.log.text); return true;
    case CPEP_FRAME_PREDICTION: prediction_fields(c, &f->as.prediction); return true;
    case CPEP_FRAME_BENCH_RESULT: bench_result_fields(c, &f->as.bench_result); return true;
    case CPEP_FRAME_CONFIG:
        f32(c, &f->as.config.sample_rate_hz), u8(c, &f->as.config.n_samples), u8(c, &f->as.config.sample_format);
        return true;
    case CPEP_FRAME_BENCH: u16(c, &f->as.bench.n_runs); return true;
    case CPEP_FRAME_CALIBRATE: u8(c, &f->as.calibrate.turn), text(c, &f->as.calibrate.gains); return true;
    case CPEP_FRAME_IDENTIFY:
    case CPEP_FRAME_START:
    case CPEP_FRAME_STOP:
    case CPEP_FRAME_PING: return true;
    default: return false;
    }
}

uint32_t cpep_frame_samples_bytes(uint32_t n_samples, uint32_t n_channels, uint32_t sample_format) {
    return sample_format > CPEP_FRAME_I24 ? 0 : n_samples * n_channels * (2u + sample_format);
}

uint32_t cpep_frame_encode(cpep_frame *f, uint8_t wire[CPEP_WIRE_MAX_BYTES + 1u]) {
    uint8_t *body = wire + CPEP_WIRE_COBS_BYTES(CPEP_WIRE_MAX_BODY_BYTES); /* at the end, so that COBS can work in place */
    cursor c = {body, body, VERSION_AND_TYPE_BYTES, CPEP_WIRE_MAX_BODY_BYTES - CPEP_WIRE_CRC_BYTES, true};
    uint32_t crc, n, i;
    body[0] = CPEP_FRAME_VERSION;
    body[1] = f->type;
    if (!fields(&c, f) || !c.fits) return 0;
    crc = cpep_wire_crc32(body, c.at);
    for (i = 0; i < CPEP_WIRE_CRC_BYTES; i++) body[c.at + i] = (uint8_t)(crc >> (8u * i));
    n = cpep_wire_cobs_encode(body, c.at + CPEP_WIRE_CRC_BYTES, wire);
    wire[n] = CPEP_WIRE_DELIMITER;
    return n + 1u;
}

float cpep_frame_f32(const uint8_t *bytes) {
    cursor c = {bytes, NULL, 0, sizeof(uint32_t), true};
    float value = 0;
    f32(&c, &value);
    return value;
}

void cpep_frame_clear(cpep_frame *f, uint8_t type, uint16_t seq) {
    cpep_wire_clear(f, sizeof *f);
    f->type = type;
    f->seq = seq;
}

cpep_frame_verdict cpep_frame_decode(uint8_t *wire, uint32_t n, cpep_frame *f) {
    const uint32_t size = cpep_wire_cobs_decode(wire, n);
    cursor c = {wire, NULL, VERSION_AND_TYPE_BYTES, size - CPEP_WIRE_CRC_BYTES, true};
    if (size < MIN_BODY_BYTES || size > CPEP_WIRE_MAX_BODY_BYTES) return CPEP_FRAME_CORRUPT;
    if (cpep_wire_crc32(wire, size) != CRC_RESIDUE) return CPEP_FRAME_CORRUPT;
    if (wire[0] != CPEP_FRAME_VERSION) return CPEP_FRAME_UNKNOWN;
    cpep_frame_clear(f, wire[1], 0);
    if (!fields(&c, f)) return CPEP_FRAME_UNKNOWN;
    return c.fits && c.at == c.size ? CPEP_FRAME_INTACT : CPEP_FRAME_CORRUPT;
}
