/* libFuzzer: runs a band on a simulated board that is controlled by the input: bytes and commands arrive, samples are
   converted, the line fills up and empties, time passes. In all cases the band must send only complete frames, and each
   sample of a DATA frame must arrive or be counted as an overrun. */
#include <stdlib.h>
#include <string.h>

#include "../cpep_band.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *script;
    size_t left;
    uint64_t now_us;
    uint8_t incoming[4096];
    uint32_t n_incoming, n_received;
    uint32_t room_bytes;
    uint32_t n_converted; /* samples that wait */
    uint32_t n_taken;     /* samples of the stream that the band took */
    uint32_t n_missed;    /* samples of the stream that the converter missed */
    bool over, refuses;
    uint8_t strangeness; /* bits that set flags, missed samples, predictions and refusals */

    /* The host. */
    uint8_t heard[CPEP_WIRE_MAX_BYTES];
    cpep_decoder decoder;
    bool follows; /* whether a START was acknowledged, so that the frames can be checked */
    uint16_t next_seq;
    uint32_t next_index;
    uint32_t n_heard; /* samples received in all streams */
} board;

static void require(bool holds) {
    if (!holds) abort();
}

static uint8_t next(board *b) {
    if (b->left == 0) return 0;
    b->left--;
    return *b->script++;
}

/* ---- The host: checks that frames are complete, and that the indices of a stream never decrease ---- */

static void follow(board *b, const cpep_frame *f) {
    if (f->type == CPEP_FRAME_ACK && f->as.ack.command == CPEP_FRAME_START) {
        b->follows = true;
        b->next_seq = 0;
        b->next_index = 0;
    }
    if (f->type == CPEP_FRAME_DATA) b->n_heard += f->as.data.n_samples;
    if (!b->follows) return;
    if (f->type == CPEP_FRAME_DATA) {
        require(f->as.data.n_samples > 0 && f->as.data.n_channels == 3);
        require((uint16_t)(f->seq - b->next_seq) < 0x8000u);
        require(f->as.data.sample_index - b->next_index < 0x80000000u);
        /* The numbers may only jump when the frame's flag says that frames were lost before it. */
        require(f->seq == b->next_seq || (f->as.data.flags & CPEP_FRAME_OVERRUN) != 0);
        b->next_seq = (uint16_t)(f->seq + 1u);
        b->next_index = f->as.data.sample_index + f->as.data.n_samples;
    }
    if (f->type == CPEP_FRAME_END) require(f->as.end.sample_index - b->next_index < 0x80000000u);
}

static uint32_t transmit(void *context, const uint8_t *bytes, uint32_t size) {
    board *b = context;
    const uint32_t n = size < b->room_bytes ? size : b->room_bytes;
    cpep_frame f;
    uint32_t i;
    b->room_bytes -= n;
    for (i = 0; i < n; i++) {
        if (cpep_decoder_take(&b->decoder, bytes[i], &f)) follow(b, &f);
    }
    require(b->decoder.counts.corrupt_frames == 0 && b->decoder.counts.unknown_frames == 0);
    return n;
}

/* ---- The board ---- */

static uint64_t clock_us(void *context) { return ((board *)context)->now_us; }

static uint32_t receive(void *context, uint8_t *bytes, uint32_t size) {
    board *b = context;
    const uint32_t waiting = b->n_incoming - b->n_received;
    const uint32_t n = size < waiting ? size : waiting;
    memcpy(bytes, b->incoming + b->n_received, n);
    b->n_received += n;
    if (b->n_received == b->n_incoming) b->n_received = b->n_incoming = 0;
    return n;
}

static bool start(void *context, float sample_rate_hz) {
    board *b = context;
    require(sample_rate_hz > 0);
    b->n_taken = b->n_missed = 0;
    return !b->refuses;
}

static void stop(void *context) { ((board *)context)->over = false; }

static cpep_band_supply take(void *context, cpep_band_sample *sample) {
    board *b = context;
    if (b->n_converted == 0) return b->over ? CPEP_BAND_NO_MORE : CPEP_BAND_NO_SAMPLE;
    b->n_converted--;
    b->n_taken++;
    sample->t_us = b->now_us;
    sample->flags = b->strangeness & CPEP_FRAME_TRIGGER;
    sample->n_missed = b->n_taken % 16u == 7u ? b->strangeness & 3u : 0;
    b->n_missed += sample->n_missed;
    sample->counts[0] = (int32_t)(b->n_taken * 2654435761u);
    sample->counts[1] = INT32_MIN;
    sample->counts[2] = INT32_MAX;
    return CPEP_BAND_SAMPLE;
}

static void measure(void *context, cpep_frame_telemetry *telemetry) {
    (void)context;
    telemetry->battery_mv = 1;
}

static bool offers_rate(void *context, float sample_rate_hz) {
    (void)context;
    return sample_rate_hz < 5000;
}

static void forget(void *context, float sample_rate_hz) { (void)context, (void)sample_rate_hz; }

static void push(void *context, const int32_t *counts, uint32_t sample_index) {
    (void)context, (void)sample_index;
    require(counts[1] >= -0x800000 && counts[2] <= 0x7FFFFF);
}

static bool decide(void *context, cpep_frame_prediction *prediction) {
    prediction->gesture_id = 7;
    return (((board *)context)->strangeness & 0x40u) != 0;
}

static bool bench(void *context, uint16_t n_runs, cpep_frame_bench_result *result, void (*between)(void *b), void *b) {
    require(n_runs > 0);
    between(b);
    result->n_runs = n_runs;
    return (((board *)context)->strangeness & 0x20u) == 0;
}

static void calibrate(void *context, const float *gains, uint8_t turn) {
    (void)context;
    require(turn < 3 && gains[0] > 0 && gains[1] > 0 && gains[2] > 0);
}

/* ---- Events ---- */

static void arrive(board *b, const uint8_t *bytes, uint32_t n) {
    if (n > sizeof b->incoming - b->n_incoming) return;
    memcpy(b->incoming + b->n_incoming, bytes, n);
    b->n_incoming += n;
}

static void arrive_noise(board *b, uint32_t n) {
    while (n-- > 0 && b->left > 0) {
        const uint8_t byte = next(b);
        arrive(b, &byte, 1);
    }
}

static void arrive_command(board *b, uint8_t type) {
    uint8_t wire[CPEP_WIRE_MAX_BYTES + 1u];
    uint8_t rate[4], gains[12];
    cpep_frame f;
    uint32_t i;
    memset(&f, 0, sizeof f);
    f.type = type;
    f.seq = next(b);
    if (type == CPEP_FRAME_BENCH) f.as.bench.n_runs = next(b);
    if (type == CPEP_FRAME_CONFIG) {
        for (i = 0; i < 4; i++) rate[i] = next(b);
        memcpy(&f.as.config.sample_rate_hz, rate, sizeof rate);
        f.as.config.n_samples = next(b);
        f.as.config.sample_format = next(b);
    }
    if (type == CPEP_FRAME_CALIBRATE) {
        f.as.calibrate.turn = next(b) % 4u;
        for (i = 0; i < sizeof gains; i++) gains[i] = i % 4u == 3u ? 0x3fu + next(b) % 2u : next(b); /* mostly about 1 */
        f.as.calibrate.gains = (cpep_frame_text){gains, (uint8_t)(next(b) % 8u == 0 ? 8 : 12)};
    }
    arrive(b, wire, cpep_frame_encode(&f, wire));
}

static void happen(board *b) {
    const uint8_t what = next(b);
    switch (what % 8u) {
    case 0: arrive_noise(b, what / 8u * 4u); break;
    case 1: arrive_command(b, (uint8_t)(CPEP_FRAME_IDENTIFY + what / 8u % 7u)); break;
    case 2: b->n_converted += what / 8u; break;
    case 3: b->room_bytes = (uint32_t)what / 8u * (what / 8u) * 8u; break;
    case 4: b->now_us += (uint64_t)(what / 8u) * 50000u; break;
    case 5: b->strangeness = next(b); break;
    case 6: b->over = what / 8u % 2u != 0, b->refuses = what / 8u == 31u; break;
    default: arrive(b, (const uint8_t *)"", 1); break;
    }
}

static void check(const board *b, const cpep_band *the_band) {
    const uint32_t waiting = the_band->outbox_head - the_band->outbox_tail;
    require(waiting <= CPEP_BAND_OUTBOX_BYTES);
    require(!the_band->streaming || the_band->sample_index == b->n_taken + b->n_missed);
    require(the_band->counts.tx_overruns <= the_band->counts.frames);
    require(the_band->counts.tx_overrun_samples <= the_band->counts.samples);
    require(cpep_band_samples_wanted(the_band) <= 255);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const cpep_frame_info info = {
        .boot_id = 1, .uv_per_count = 0.25f, .sample_rate_hz = 2000, .n_samples = 10, .n_channels = 3,
        .model = CPEP_FRAME_TEXT("a band"), .serial_number = CPEP_FRAME_TEXT("1"), .firmware = CPEP_FRAME_TEXT("1"),
    };
    static board b;
    static cpep_band_hal hal = {&b, clock_us, receive, transmit, start, stop, take, measure, offers_rate};
    static cpep_band_classifier classifier = {&b, forget, push, decide, bench, calibrate};
    static cpep_band the_band;
    memset(&b, 0, sizeof b);
    hal.measure = size % 3u != 0 ? measure : NULL;
    cpep_decoder_init(&b.decoder, b.heard, sizeof b.heard);
    b.script = data;
    b.left = size;
    b.room_bytes = 4096;
    require(cpep_band_init(&the_band, &hal, size % 2u != 0 ? &classifier : NULL, &info));
    while (b.left > 0) {
        happen(&b);
        cpep_band_poll(&the_band);
        check(&b, &the_band);
    }
    b.room_bytes = UINT32_MAX;
    cpep_band_poll(&the_band);
    require(the_band.outbox_head == the_band.outbox_tail);
    require(b.n_heard + the_band.counts.tx_overrun_samples == the_band.counts.samples);
    return 0;
}
