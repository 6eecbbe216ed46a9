#include "cpep_band.h"

#include <string.h>

#define MIN_GAIN (1.0f / 1024.0f)
#define MAX_GAIN 1024.0f
#define TELEMETRY_US 1000000u
#define POLL_SAMPLES 1024u /* most samples taken in one poll, so that a backlog does not delay commands */

/* ---- The line: bytes that it does not take at once wait in the outbox. ---- */

static uint32_t waiting(const cpep_band *b) { return b->outbox_head - b->outbox_tail; }

static void flush(cpep_band *b) {
    while (waiting(b) > 0) {
        const uint32_t at = b->outbox_tail % CPEP_BAND_OUTBOX_BYTES;
        const uint32_t to_edge = CPEP_BAND_OUTBOX_BYTES - at;
        const uint32_t n = waiting(b) < to_edge ? waiting(b) : to_edge;
        const uint32_t n_taken = b->hal->transmit(b->hal->context, b->outbox + at, n);
        b->outbox_tail += n_taken < n ? n_taken : n;
        if (n_taken < n) return;
    }
}

static void append(cpep_band *b, const uint8_t *bytes, uint32_t n) {
    const uint32_t at = b->outbox_head % CPEP_BAND_OUTBOX_BYTES;
    const uint32_t to_edge = CPEP_BAND_OUTBOX_BYTES - at;
    const uint32_t n_first = n < to_edge ? n : to_edge;
    memcpy(b->outbox + at, bytes, n_first);
    memcpy(b->outbox, bytes + n_first, n - n_first);
    b->outbox_head += n;
}

/* Send a frame now, or later when there is room. */
static void put(cpep_band *b, cpep_frame *f) {
    const uint32_t n = cpep_frame_encode(f, b->wire);
    if (n == 0 || n > CPEP_BAND_OUTBOX_BYTES - waiting(b)) {
        b->counts.dropped_answers++;
        return;
    }
    append(b, b->wire, n);
    flush(b);
}

/* Send all of a frame, or none of it when the line is full. */
static bool offer(cpep_band *b, cpep_frame *f) {
    uint32_t n;
    flush(b);
    if (waiting(b) > 0) return false;
    n = cpep_frame_encode(f, b->wire);
    append(b, b->wire, n);
    flush(b);
    return n > 0;
}

static uint64_t now_us(const cpep_band *b) { return b->hal->clock_us(b->hal->context); }

/* ---- The stream ---- */

static void send_data(cpep_band *b) {
    cpep_frame f;
    cpep_frame_data *data = &f.as.data;
    if (b->n_samples == 0) return;
    cpep_frame_clear(&f, CPEP_FRAME_DATA, b->seq);
    data->sample_index = b->sample_index - b->n_samples;
    data->t_us = b->first_t_us;
    data->n_samples = b->n_samples;
    data->n_channels = b->info.n_channels;
    data->sample_format = b->info.sample_format;
    data->flags = (uint8_t)(b->flags | (b->overrun ? CPEP_FRAME_OVERRUN : 0));
    data->samples = b->samples;
    b->counts.frames++;
    b->counts.samples += b->n_samples;
    b->overrun = !offer(b, &f);
    if (b->overrun) {
        b->counts.tx_overruns++;
        b->counts.tx_overrun_samples += b->n_samples;
    }
    b->seq++;
    b->n_samples = b->flags = 0;
    b->samples_bytes = 0;
}

/* Write one value in the stream's format, clipped if necessary, and return the written value. */
static int32_t pack(cpep_band *b, int32_t count) {
    const bool wide = b->info.sample_format == CPEP_FRAME_I24;
    const int32_t limit = wide ? 0x7FFFFF : 0x7FFF;
    const int32_t value = count > limit ? limit : count < -limit - 1 ? -limit - 1 : count;
    const uint32_t bits = (uint32_t)value;
    b->samples[b->samples_bytes++] = (uint8_t)bits;
    b->samples[b->samples_bytes++] = (uint8_t)(bits >> 8);
    if (wide) b->samples[b->samples_bytes++] = (uint8_t)(bits >> 16);
    if (value >= limit || value <= -limit) b->flags |= CPEP_FRAME_SATURATION;
    return value;
}

static void add_sample(cpep_band *b, cpep_band_sample *sample) {
    uint32_t channel;
    if (sample->n_missed > 0) { /* a frame holds consecutive samples only */
        send_data(b);
        b->counts.adc_overruns += sample->n_missed;
        b->sample_index += sample->n_missed;
    }
    if (b->n_samples == 0) b->first_t_us = sample->t_us;
    b->flags |= sample->flags;
    for (channel = 0; channel < b->info.n_channels; channel++) {
        sample->counts[channel] = pack(b, sample->counts[channel]);
    }
    if (b->classifier != NULL) b->classifier->push(b->classifier->context, sample->counts, b->sample_index);
    b->sample_index++;
    b->n_samples++;
    if (b->n_samples == b->info.n_samples) send_data(b);
}

static void send_last_end(cpep_band *b) {
    cpep_frame f;
    cpep_frame_clear(&f, CPEP_FRAME_END, b->seq);
    f.as.end = b->last_end;
    put(b, &f);
}

static void end_stream(cpep_band *b) {
    send_data(b);
    b->streaming = false;
    b->has_ended = true;
    b->last_end.t_us = now_us(b);
    b->last_end.sample_index = b->sample_index;
    send_last_end(b);
}

static bool begin_stream(cpep_band *b) {
    b->streaming = b->hal->start(b->hal->context, b->info.sample_rate_hz);
    b->seq = 0;
    b->sample_index = b->samples_bytes = 0;
    b->n_samples = b->flags = 0;
    b->overrun = b->has_ended = false;
    b->telemetry_due_us = now_us(b);
    if (b->streaming && b->classifier != NULL) {
        b->classifier->start(b->classifier->context, b->info.sample_rate_hz);
    }
    return b->streaming;
}

static void take_samples(cpep_band *b) {
    cpep_band_sample sample;
    cpep_band_supply supply;
    uint32_t n;
    for (n = 0; b->streaming && n < POLL_SAMPLES; n++) {
        sample.n_missed = sample.flags = 0;
        supply = b->hal->take(b->hal->context, &sample);
        if (supply == CPEP_BAND_NO_SAMPLE) return;
        if (supply == CPEP_BAND_NO_MORE) {
            end_stream(b);
        } else {
            add_sample(b, &sample);
        }
    }
}

/* At most once a second: during a stream, between the runs of a benchmark, and after a PONG while nothing streams. */
static void send_telemetry(cpep_band *b) {
    cpep_frame f;
    const uint64_t t_us = now_us(b);
    if (b->hal->measure == NULL || t_us < b->telemetry_due_us) return;
    cpep_frame_clear(&f, CPEP_FRAME_TELEMETRY, 0);
    b->telemetry_due_us = t_us + TELEMETRY_US;
    b->hal->measure(b->hal->context, &f.as.telemetry);
    f.as.telemetry.t_us = t_us;
    f.as.telemetry.adc_overruns = b->counts.adc_overruns;
    f.as.telemetry.tx_overruns = b->counts.tx_overruns;
    offer(b, &f);
}

static void send_prediction(cpep_band *b) {
    cpep_frame f;
    if (!b->streaming || b->classifier == NULL) return;
    cpep_frame_clear(&f, CPEP_FRAME_PREDICTION, 0);
    if (b->classifier->take(b->classifier->context, &f.as.prediction)) put(b, &f);
}

/* ---- Commands ---- */

static void acknowledge(cpep_band *b, const cpep_frame *command) {
    cpep_frame f;
    cpep_frame_clear(&f, CPEP_FRAME_ACK, command->seq);
    f.as.ack.command = command->type;
    put(b, &f);
}

static void refuse(cpep_band *b, const cpep_frame *command, uint8_t code, cpep_frame_text reason) {
    cpep_frame f;
    cpep_frame_clear(&f, CPEP_FRAME_NAK, command->seq);
    f.as.nak.command = command->type;
    f.as.nak.code = code;
    f.as.nak.text = reason;
    put(b, &f);
}

static void identify(cpep_band *b, uint16_t seq) {
    cpep_frame f;
    cpep_frame_clear(&f, CPEP_FRAME_INFO, seq);
    f.as.info = b->info;
    f.as.info.state = b->streaming;
    put(b, &f);
}

static bool cpep_frame_is_possible(const cpep_frame_info *info) {
    const uint32_t n = cpep_frame_samples_bytes(info->n_samples, info->n_channels, info->sample_format);
    return n > 0 && n <= CPEP_WIRE_MAX_BODY_BYTES - CPEP_WIRE_CRC_BYTES - CPEP_FRAME_DATA_HEADER_BYTES;
}

static bool rate_is_possible(const cpep_band *b, float rate_hz) {
    const float rate_now_hz = b->info.sample_rate_hz;
    if (!(rate_hz > 0)) return false; /* NaN too */
    if (rate_hz >= rate_now_hz && rate_hz <= rate_now_hz) return true;
    return b->hal->offers_rate != NULL && b->hal->offers_rate(b->hal->context, rate_hz);
}

static void configure(cpep_band *b, const cpep_frame *command) {
    const cpep_frame_config *config = &command->as.config;
    const bool keeps_rate = config->sample_rate_hz >= 0 && config->sample_rate_hz <= 0;
    cpep_frame_info wanted = b->info;
    if (!keeps_rate) wanted.sample_rate_hz = config->sample_rate_hz;
    if (config->n_samples != 0) wanted.n_samples = config->n_samples;
    if (config->sample_format != CPEP_FRAME_SAME_FORMAT) wanted.sample_format = config->sample_format;
    if (b->streaming) {
        refuse(b, command, CPEP_FRAME_NOT_NOW, (cpep_frame_text)CPEP_FRAME_TEXT("the stream must be stopped first"));
    } else if (!keeps_rate && !rate_is_possible(b, config->sample_rate_hz)) {
        refuse(b, command, CPEP_FRAME_BAD_VALUE, (cpep_frame_text)CPEP_FRAME_TEXT("the converter has no such rate"));
    } else if (!cpep_frame_is_possible(&wanted)) {
        refuse(b, command, CPEP_FRAME_BAD_VALUE, (cpep_frame_text)CPEP_FRAME_TEXT("no frame has that size or format"));
    } else {
        b->info = wanted;
        acknowledge(b, command);
    }
}

static void start(cpep_band *b, const cpep_frame *command) {
    if (begin_stream(b)) {
        acknowledge(b, command);
    } else {
        refuse(b, command, CPEP_FRAME_NOT_NOW, (cpep_frame_text)CPEP_FRAME_TEXT("the converter does not start"));
    }
}

static void stop(cpep_band *b, const cpep_frame *command) {
    acknowledge(b, command);
    b->hal->stop(b->hal->context);
    if (b->streaming) {
        end_stream(b);
    } else if (b->has_ended) {
        send_last_end(b);
    }
}

static void between_runs(void *b) { send_telemetry(b); }

static void bench(cpep_band *b, const cpep_frame *command) {
    cpep_frame f;
    const uint16_t n_runs = command->as.bench.n_runs;
    cpep_frame_clear(&f, CPEP_FRAME_BENCH_RESULT, command->seq);
    if (b->classifier == NULL || b->classifier->bench == NULL) {
        refuse(b, command, CPEP_FRAME_UNSUPPORTED, (cpep_frame_text)CPEP_FRAME_TEXT("this band has no encoder"));
    } else if (b->streaming) {
        refuse(b, command, CPEP_FRAME_NOT_NOW, (cpep_frame_text)CPEP_FRAME_TEXT("the stream must be stopped first"));
    } else if (n_runs == 0) {
        refuse(b, command, CPEP_FRAME_BAD_VALUE, (cpep_frame_text)CPEP_FRAME_TEXT("at least one run is needed"));
    } else if (b->classifier->bench(b->classifier->context, n_runs, &f.as.bench_result, between_runs, b)) {
        put(b, &f);
    } else {
        refuse(b, command, CPEP_FRAME_NOT_NOW, (cpep_frame_text)CPEP_FRAME_TEXT("the encoder cannot be timed now"));
    }
}

/* Whether there is a gain for each channel, within the range of the engine's fixed point; false for NaN. */
static bool read_gains(const cpep_band *b, const cpep_frame_calibrate *wanted, float *gains) {
    uint32_t channel;
    if (wanted->gains.n != 4u * b->info.n_channels || wanted->turn >= b->info.n_channels) return false;
    for (channel = 0; channel < b->info.n_channels; channel++) {
        gains[channel] = cpep_frame_f32(wanted->gains.bytes + 4u * channel);
        if (!(gains[channel] >= MIN_GAIN && gains[channel] <= MAX_GAIN)) return false;
    }
    return true;
}

static void calibrate(cpep_band *b, const cpep_frame *command) {
    float gains[CPEP_BAND_MAX_CHANNELS];
    if (b->classifier == NULL || b->classifier->calibrate == NULL) {
        refuse(b, command, CPEP_FRAME_UNSUPPORTED,
               (cpep_frame_text)CPEP_FRAME_TEXT("this band has nothing to calibrate"));
    } else if (b->streaming) {
        refuse(b, command, CPEP_FRAME_NOT_NOW, (cpep_frame_text)CPEP_FRAME_TEXT("the stream must be stopped first"));
    } else if (!read_gains(b, &command->as.calibrate, gains)) {
        refuse(b, command, CPEP_FRAME_BAD_VALUE,
               (cpep_frame_text)CPEP_FRAME_TEXT("a gain of 2^-10 to 2^10 is needed for each channel"));
    } else {
        b->classifier->calibrate(b->classifier->context, gains, command->as.calibrate.turn);
        acknowledge(b, command);
    }
}

static void pong(cpep_band *b, uint16_t seq, uint64_t t_rx_us) {
    cpep_frame f;
    cpep_frame_clear(&f, CPEP_FRAME_PONG, seq);
    f.as.pong.t_rx_us = t_rx_us;
    f.as.pong.t_tx_us = now_us(b);
    put(b, &f);
    if (!b->streaming) send_telemetry(b);
}

static void obey(cpep_band *b, const cpep_frame *command, uint64_t t_rx_us) {
    switch (command->type) {
    case CPEP_FRAME_IDENTIFY: identify(b, command->seq); break;
    case CPEP_FRAME_CONFIG: configure(b, command); break;
    case CPEP_FRAME_START: start(b, command); break;
    case CPEP_FRAME_STOP: stop(b, command); break;
    case CPEP_FRAME_PING: pong(b, command->seq, t_rx_us); break;
    case CPEP_FRAME_BENCH: bench(b, command); break;
    case CPEP_FRAME_CALIBRATE: calibrate(b, command); break;
    default: break; /* a frame of the device itself, which the line echoed */
    }
}

static void receive(cpep_band *b) {
    uint8_t bytes[CPEP_BAND_RECEIVE_BYTES];
    const uint32_t n = b->hal->receive(b->hal->context, bytes, sizeof bytes);
    const uint64_t t_rx_us = n > 0 ? now_us(b) : 0;
    cpep_frame command;
    uint32_t i;
    for (i = 0; i < n; i++) {
        if (cpep_decoder_take(&b->decoder, bytes[i], &command)) obey(b, &command, t_rx_us);
    }
}

/* ---- The functions that a board calls ---- */

bool cpep_band_init(cpep_band *b, const cpep_band_hal *hal, const cpep_band_classifier *classifier,
                    const cpep_frame_info *info) {
    static const uint8_t delimiter = CPEP_WIRE_DELIMITER;
    if (!cpep_frame_is_possible(info) || info->n_channels > CPEP_BAND_MAX_CHANNELS) return false;
    cpep_wire_clear(b, sizeof *b);
    b->hal = hal;
    b->classifier = classifier;
    b->info = *info;
    b->info.capabilities = CPEP_FRAME_CAN_CONFIG;
    if (hal->measure != NULL) b->info.capabilities |= CPEP_FRAME_CAN_TELEMETRY;
    if (classifier != NULL) b->info.capabilities |= CPEP_FRAME_CAN_PREDICT;
    if (classifier != NULL && classifier->bench != NULL) b->info.capabilities |= CPEP_FRAME_CAN_BENCH;
    if (classifier != NULL && classifier->calibrate != NULL) b->info.capabilities |= CPEP_FRAME_CAN_CALIBRATE;
    cpep_decoder_init(&b->decoder, b->received, sizeof b->received);
    append(b, &delimiter, 1);
    identify(b, 0);
    return b->counts.dropped_answers == 0;
}

void cpep_band_poll(cpep_band *b) {
    flush(b);
    receive(b);
    take_samples(b);
    send_prediction(b);
    if (b->streaming) send_telemetry(b);
}

uint32_t cpep_band_samples_wanted(const cpep_band *b) {
    return b->streaming ? (uint32_t)b->info.n_samples - b->n_samples : 0;
}

void cpep_band_log(cpep_band *b, uint8_t level, cpep_frame_text line) {
    cpep_frame f;
    cpep_frame_clear(&f, CPEP_FRAME_LOG, 0);
    f.as.log.t_us = now_us(b);
    f.as.log.level = level;
    f.as.log.text = line;
    offer(b, &f);
}
