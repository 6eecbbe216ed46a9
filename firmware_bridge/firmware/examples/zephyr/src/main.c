/* A wristband on Zephyr: the HAL of cpep_band over a UART, a timer that takes samples, and a ring buffer between them.

   Replace `convert`, which generates a tone here, with the read of your ADC. It must take less than a sample period. */
#include <cpep_band.h>
#include <stdio.h>
#include <zephyr/device.h>
#include <zephyr/drivers/hwinfo.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>
#include <zephyr/random/random.h>
#include <zephyr/sys/ring_buffer.h>

#define RATE_HZ 1000u
#define N_CHANNELS 8u
#define WAITING_SAMPLES 64u /* more than arrive in the longest time between two polls */
#define POLL_MS 5

static const struct device *const line = DEVICE_DT_GET(DT_CHOSEN(zephyr_console));
RING_BUF_DECLARE(received, 512);
RING_BUF_DECLARE(sending, 4096);

static cpep_band_sample waiting[WAITING_SAMPLES];
static atomic_t n_taken, n_converted; /* total samples; the difference waits in the ring */
static uint32_t n_missed;             /* samples without room since the last one stored; used by the timer only */
static cpep_band band;

static void convert(int32_t counts[N_CHANNELS]) {
    static uint32_t phase;
    phase++;
    for (uint32_t channel = 0; channel < N_CHANNELS; channel++) {
        counts[channel] = (int32_t)((phase * (channel + 1u)) % 200u) - 100;
    }
}

static uint64_t clock_us(void *context) {
    ARG_UNUSED(context);
    return k_ticks_to_us_floor64((uint64_t)k_uptime_ticks());
}

static void on_period(struct k_timer *timer) {
    const uint32_t number = (uint32_t)atomic_get(&n_converted);
    cpep_band_sample *sample = &waiting[number % WAITING_SAMPLES];
    ARG_UNUSED(timer);
    if (number - (uint32_t)atomic_get(&n_taken) >= WAITING_SAMPLES) {
        n_missed++;
        return;
    }
    sample->t_us = clock_us(NULL);
    sample->flags = 0;
    sample->n_missed = n_missed;
    n_missed = 0;
    convert(sample->counts);
    atomic_set(&n_converted, (atomic_val_t)(number + 1u));
}
K_TIMER_DEFINE(period, on_period, NULL);

static bool start(void *context, float sample_rate_hz) {
    ARG_UNUSED(context);
    ARG_UNUSED(sample_rate_hz); /* there is only one rate */
    atomic_set(&n_taken, atomic_get(&n_converted));
    n_missed = 0;
    k_timer_start(&period, K_USEC(1000000u / RATE_HZ), K_USEC(1000000u / RATE_HZ));
    return true;
}

static void stop(void *context) {
    ARG_UNUSED(context);
    k_timer_stop(&period);
}

static cpep_band_supply take(void *context, cpep_band_sample *sample) {
    const uint32_t number = (uint32_t)atomic_get(&n_taken);
    ARG_UNUSED(context);
    if (number == (uint32_t)atomic_get(&n_converted)) return CPEP_BAND_NO_SAMPLE;
    *sample = waiting[number % WAITING_SAMPLES];
    atomic_set(&n_taken, (atomic_val_t)(number + 1u));
    return CPEP_BAND_SAMPLE;
}

static uint32_t receive(void *context, uint8_t *bytes, uint32_t size) {
    ARG_UNUSED(context);
    return ring_buf_get(&received, bytes, size);
}

static uint32_t transmit(void *context, const uint8_t *bytes, uint32_t size) {
    const uint32_t n = ring_buf_put(&sending, bytes, size);
    ARG_UNUSED(context);
    if (n) uart_irq_tx_enable(line);
    return n;
}

static void on_line(const struct device *device, void *context) {
    uint8_t *bytes;
    ARG_UNUSED(context);
    while (uart_irq_update(device) && uart_irq_is_pending(device)) {
        if (uart_irq_rx_ready(device)) {
            uint8_t heard[32];
            const int n = uart_fifo_read(device, heard, sizeof heard);
            if (n > 0) ring_buf_put(&received, heard, (uint32_t)n);
        }
        if (uart_irq_tx_ready(device)) {
            const uint32_t n = ring_buf_get_claim(&sending, &bytes, 64);
            const int sent = n ? uart_fifo_fill(device, bytes, (int)n) : 0;
            ring_buf_get_finish(&sending, sent > 0 ? (uint32_t)sent : 0u);
            if (!n) uart_irq_tx_disable(device);
        }
    }
}

int main(void) {
    static const cpep_band_hal hal = {
        .clock_us = clock_us, .receive = receive, .transmit = transmit, .start = start, .stop = stop, .take = take};
    static const uint8_t order[N_CHANNELS] = {0, 1, 2, 3, 4, 5, 6, 7};
    static char serial_number[17];
    uint8_t id[8] = {0};
    cpep_frame_info info = {
        .boot_id = sys_rand32_get(), /* different at every start */
        .uv_per_count = 1.0f,
        .sample_rate_hz = (float)RATE_HZ,
        .n_samples = 10,
        .n_channels = N_CHANNELS,
        .sample_format = CPEP_FRAME_I16,
        .channel_order = {order, N_CHANNELS},
        .model = CPEP_FRAME_TEXT("Zephyr band"),
        .firmware = CPEP_FRAME_TEXT("example 1"),
    };
    (void)hwinfo_get_device_id(id, sizeof id);
    for (uint32_t byte = 0; byte < sizeof id; byte++) snprintf(&serial_number[2u * byte], 3, "%02x", id[byte]);
    info.serial_number = (cpep_frame_text){(const uint8_t *)serial_number, 16};

    uart_irq_callback_user_data_set(line, on_line, NULL);
    uart_irq_rx_enable(line);
    cpep_band_init(&band, &hal, NULL, &info);
    for (;;) {
        cpep_band_poll(&band);
        k_sleep(K_MSEC(POLL_MS));
    }
}
