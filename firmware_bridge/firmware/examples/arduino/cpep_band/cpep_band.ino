/* A wristband made of an Arduino, ESP32 or Teensy: four analog inputs at 500 Hz over USB, read by `cpep-edge`.

   Copy cpep_wire, cpep_frames, cpep_decoder and cpep_band (.c and .h) from firmware/ to this file's folder, or run
   `make arduino BUILD=...` in firmware/. Then set CHANNEL_PINS, RATE_HZ and UV_PER_COUNT for your board and amplifier,
   upload, and run:

       cpep-edge devices
       cpep-edge doctor --port /dev/ttyACM0

   It takes 4.5 KB of memory: an UNO has too little, a Mega, ESP32, Teensy, RP2040 or any ARM board is fine. */
#include "cpep_band.h"

#if defined(ESP32)
#include <esp_random.h>
#endif

static const uint8_t CHANNEL_PINS[] = {A0, A1, A2, A3}; /* in the order of the electrodes round the wrist */
static const float RATE_HZ = 500.0f;
static const float UV_PER_COUNT = 1.0f;     /* microvolts at the skin: converter step divided by the amplifier's gain */
static const int32_t MIDDLE_COUNTS = 512;   /* the converter's value without a signal: half its range */
static const uint32_t BAUD = 921600;        /* of a real serial line; USB ignores it */

static const uint8_t N_CHANNELS = sizeof(CHANNEL_PINS);
static const uint8_t ORDER[] = {0, 1, 2, 3};

static cpep_band band;
static cpep_band_hal hal;
static bool converting;
static uint64_t due_us;
static uint32_t period_us;

/* micros() wraps after 71 minutes; this clock does not, if it is called at least once in that time. */
static uint64_t clock_us(void *context) {
    static uint32_t last, turns;
    const uint32_t now = micros();
    (void)context;
    if (now < last) turns++;
    last = now;
    return (uint64_t)turns << 32 | now;
}

static uint32_t receive(void *context, uint8_t *bytes, uint32_t size) {
    uint32_t n = 0;
    (void)context;
    while (n < size && Serial.available() > 0) bytes[n++] = (uint8_t)Serial.read();
    return n;
}

static uint32_t transmit(void *context, const uint8_t *bytes, uint32_t size) {
    const int room = Serial.availableForWrite(); /* never wait: bytes without room are offered again, or counted as dropped */
    (void)context;
    if (room <= 0) return 0;
    return (uint32_t)Serial.write(bytes, size < (uint32_t)room ? size : (uint32_t)room);
}

static bool start(void *context, float sample_rate_hz) {
    period_us = (uint32_t)(1e6f / sample_rate_hz + 0.5f);
    due_us = clock_us(context) + period_us;
    converting = true;
    return true;
}

static void stop(void *context) {
    (void)context;
    converting = false;
}

/* The sample that is due. If the loop is late, n_missed tells the host of a gap, so the signal is not stretched. */
static cpep_band_supply take(void *context, cpep_band_sample *sample) {
    const uint64_t now_us = clock_us(context);
    if (!converting || now_us < due_us) return CPEP_BAND_NO_SAMPLE;
    sample->n_missed = (uint32_t)((now_us - due_us) / period_us);
    due_us += (uint64_t)(sample->n_missed + 1u) * period_us;
    sample->t_us = now_us;
    sample->flags = 0;
    for (uint8_t channel = 0; channel < N_CHANNELS; channel++) {
        sample->counts[channel] = (int32_t)analogRead(CHANNEL_PINS[channel]) - MIDDLE_COUNTS;
    }
    return CPEP_BAND_SAMPLE;
}

/* A different number at every start, so that the host can tell a restart from a gap. */
static uint32_t boot_id(void) {
#if defined(ESP32)
    return esp_random();
#else
    uint32_t id = micros();
    for (uint8_t round = 0; round < 64; round++) id = id * 1664525u + (uint32_t)analogRead(CHANNEL_PINS[0]) + 1013904223u;
    return id;
#endif
}

void setup() {
    static const uint8_t model[] = "Arduino band", serial_number[] = "1", firmware[] = "example 1";
    cpep_frame_info info = {};
    Serial.begin(BAUD);
    info.boot_id = boot_id();
    info.uv_per_count = UV_PER_COUNT;
    info.sample_rate_hz = RATE_HZ;
    info.n_samples = 10;
    info.n_channels = N_CHANNELS;
    info.sample_format = CPEP_FRAME_I16;
    info.channel_order.bytes = ORDER;
    info.channel_order.n = N_CHANNELS;
    info.model.bytes = model;
    info.model.n = sizeof(model) - 1u;
    info.serial_number.bytes = serial_number; /* give each band its own, so that the host can tell two bands apart */
    info.serial_number.n = sizeof(serial_number) - 1u;
    info.firmware.bytes = firmware;
    info.firmware.n = sizeof(firmware) - 1u;
    hal.clock_us = clock_us;
    hal.receive = receive;
    hal.transmit = transmit;
    hal.start = start;
    hal.stop = stop;
    hal.take = take;
    cpep_band_init(&band, &hal, 0, &info);
}

void loop() { cpep_band_poll(&band); }
