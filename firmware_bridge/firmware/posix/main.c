/* A wristband as a process: the firmware on a POSIX HAL. It plays a recording or noise on a pty, a serial port, or
   standard input and output. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../cpep_band.h"
#include "line.h"
#include "playback.h"
#include "recogniser.h"

#define IDLE_US 20000.0         /* longest sleep of the loop */
#define END_WAIT_US 1000000u    /* how long to wait for STOP once the reader has read everything */
#define UNREAD_WAIT_US 10000000u /* how long to wait for a reader that stopped reading */
#define LEAVE_WAIT_US 300000u   /* how long to wait for the last answer to be read before hanging up */
#define IDLE_UA 21000.0         /* the simulated battery's current with an idle processor */
#define WORK_UA 60000.0         /* its additional current with a fully busy processor */

typedef struct {
    cpep_frame_info info;
    const char *input, *port, *link;
    bool stdio, once, lossless, control;
    double speed, drift_ppm;
    uint64_t seed;
    uint32_t hop_samples;
} settings;

typedef struct {
    settings set;
    cpep_band band;
    cpep_band_hal hal;
    const cpep_band_classifier *classifier; /* null without an engine */
    cpep_band_counts before; /* sums of earlier boots */
    line line;
    playback playback;
    uint64_t boots;   /* random state of the boot_ids, different in every run whatever the seed */
    uint64_t boot_us; /* by the host's clock, like all times except those of the HAL */
    double clock_speed;
    uint64_t start_us; /* of the stream, by the band's clock */
    double rate_hz;
    uint64_t n_taken;
    bool played_out, dismissed; /* whether the recording is over, and whether the host sent STOP after that */
    uint64_t progress_us;
    uint32_t unread_bytes;
    uint64_t gauge_us, gauge_worked_us; /* of the last reading of the battery */
    uint8_t channel_order[CPEP_BAND_MAX_CHANNELS];
} simulated;

static volatile sig_atomic_t hung_up = 0;

static void hang_up(int number) {
    (void)number;
    hung_up = 1;
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static uint64_t host_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* ---- The HAL ---- */

static uint64_t clock_us(void *context) {
    const simulated *s = context;
    return (uint64_t)((double)(host_us() - s->boot_us) * s->clock_speed);
}

static uint32_t receive(void *context, uint8_t *bytes, uint32_t size) {
    simulated *s = context;
    return line_receive(&s->line, bytes, size);
}

static uint32_t transmit(void *context, const uint8_t *bytes, uint32_t size) {
    simulated *s = context;
    return line_transmit(&s->line, bytes, size);
}

static bool start(void *context, float sample_rate_hz) {
    simulated *s = context;
    playback_rewind(&s->playback);
    s->start_us = clock_us(s);
    s->rate_hz = (double)sample_rate_hz;
    s->n_taken = 0;
    s->played_out = s->dismissed = false;
    return true;
}

static void stop(void *context) {
    simulated *s = context;
    s->dismissed = s->played_out;
}

/* When the n-th sample period of the stream begins. */
static uint64_t sample_us(const simulated *s, uint64_t n) {
    return s->start_us + (uint64_t)((double)n / s->rate_hz * 1e6 + 0.5);
}

static cpep_band_supply take(void *context, cpep_band_sample *sample) {
    simulated *s = context;
    if (s->set.lossless && line_is_full(&s->line)) return CPEP_BAND_NO_SAMPLE;
    if (clock_us(s) < sample_us(s, s->n_taken + 1u)) return CPEP_BAND_NO_SAMPLE;
    if (!playback_next(&s->playback, sample->counts)) {
        s->played_out = true;
        s->progress_us = host_us();
        return CPEP_BAND_NO_MORE;
    }
    sample->t_us = sample_us(s, s->n_taken++);
    return CPEP_BAND_SAMPLE;
}

static uint64_t processor_us(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000u + (uint64_t)used.tv_nsec / 1000u;
}

/* A simulated battery gauge: the mean current since the last reading, which rises with this process's CPU time. */
static void measure(void *context, cpep_frame_telemetry *telemetry) {
    simulated *s = context;
    const uint64_t now_us = host_us(), worked_us = processor_us();
    const double share = (double)(worked_us - s->gauge_worked_us) / (double)(now_us - s->gauge_us + 1u);
    s->gauge_us = now_us;
    s->gauge_worked_us = worked_us;
    telemetry->battery_mv = 3900;
    telemetry->battery_current_ua = -(int32_t)(IDLE_UA + share * WORK_UA);
    telemetry->charge_percent = 80;
    telemetry->temperature_c = 31.5f;
}

/* ---- One band, from boot to boot ---- */

static void boot(simulated *s) {
    s->boot_us = host_us();
    s->set.info.boot_id = (uint32_t)(playback_random(&s->boots) >> 32);
    s->played_out = s->dismissed = false;
    if (!cpep_band_init(&s->band, &s->hal, s->classifier, &s->set.info)) {
        fail("a DATA frame of that many samples and channels is impossible", "the limit is 1024 bytes");
    }
}

static void reboot(simulated *s) {
    s->before.frames += s->band.counts.frames;
    s->before.samples += s->band.counts.samples;
    s->before.tx_overruns += s->band.counts.tx_overruns;
    s->before.tx_overrun_samples += s->band.counts.tx_overrun_samples;
    boot(s);
}

static void report(const simulated *s) {
    const cpep_band_counts *now = &s->band.counts, *before = &s->before;
    printf("frames %u samples %u overruns %u", before->frames + now->frames, before->samples + now->samples,
           before->tx_overruns + now->tx_overruns);
    printf(" injected_losses %u corrupted %u duplicated %u", s->line.n_lost, s->line.n_corrupted, s->line.n_duplicated);
    printf(" lost_samples %u\n", s->line.lost_samples + before->tx_overrun_samples + now->tx_overrun_samples);
    fflush(stdout);
}

/* Each letter is a command: s prints the counts so far, r reboots. The end of the input ends the band. */
static void obey_control(simulated *s) {
    char letters[16];
    const ssize_t n = read(STDIN_FILENO, letters, sizeof letters);
    ssize_t i;
    if (n <= 0) hung_up = 1;
    for (i = 0; i < n; i++) {
        if (letters[i] == 's') report(s);
        if (letters[i] == 'r') reboot(s);
    }
}

static double sleep_us(simulated *s) {
    const uint32_t n_wanted = cpep_band_samples_wanted(&s->band);
    double wait_us;
    if (n_wanted == 0 || (s->set.lossless && line_is_full(&s->line))) return IDLE_US;
    wait_us = ((double)sample_us(s, s->n_taken + n_wanted) - (double)clock_us(s)) / s->clock_speed;
    return wait_us < 0 ? 0 : wait_us < IDLE_US ? wait_us + 1 : IDLE_US;
}

static void wait_for_work(simulated *s) {
    const double wait_us = sleep_us(s);
    struct timeval timeout = {0, (suseconds_t)wait_us};
    const int in_fd = s->line.in_fd, out_fd = s->line.out_fd;
    fd_set readable, writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(in_fd, &readable);
    if (s->set.control) FD_SET(STDIN_FILENO, &readable);
    if (line_is_full(&s->line)) FD_SET(out_fd, &writable);
    if (select((in_fd > out_fd ? in_fd : out_fd) + 1, &readable, &writable, NULL, &timeout) <= 0) return;
    if (s->set.control && FD_ISSET(STDIN_FILENO, &readable)) obey_control(s);
}

/* Whether a band with --once may end: the host has read everything, or has stopped reading. */
static bool is_finished(simulated *s) {
    const uint64_t now_us = host_us();
    const uint32_t unread_bytes = line_unread_bytes(&s->line);
    if (!s->set.once || !s->played_out) return false;
    if (unread_bytes != s->unread_bytes) {
        s->unread_bytes = unread_bytes;
        s->progress_us = now_us;
    }
    if (unread_bytes > 0) return now_us - s->progress_us > (s->dismissed ? LEAVE_WAIT_US : UNREAD_WAIT_US);
    return s->dismissed || now_us - s->progress_us > END_WAIT_US;
}

static void run(simulated *s) {
    while (!hung_up && !s->line.closed && !is_finished(s)) {
        wait_for_work(s);
        line_flush(&s->line);
        cpep_band_poll(&s->band);
    }
}

/* ---- Options ---- */

enum { PORT = 256, BAUD, STDIO, LINK, INPUT, CHANNELS, RATE, UV_PER_COUNT, FORMAT, SAMPLES, SERIAL, SPEED, DRIFT, LOSS,
       CORRUPT, DUPLICATE, ONCE, LOSSLESS, SEED, CONTROL, HOP, HELP };

static const struct option options[] = {
    {"port", 1, NULL, PORT}, {"baud", 1, NULL, BAUD}, {"stdio", 0, NULL, STDIO}, {"link", 1, NULL, LINK},
    {"input", 1, NULL, INPUT}, {"channels", 1, NULL, CHANNELS}, {"rate", 1, NULL, RATE},
    {"uv-per-count", 1, NULL, UV_PER_COUNT}, {"format", 1, NULL, FORMAT}, {"samples", 1, NULL, SAMPLES},
    {"serial", 1, NULL, SERIAL}, {"speed", 1, NULL, SPEED}, {"drift-ppm", 1, NULL, DRIFT}, {"loss", 1, NULL, LOSS},
    {"corrupt", 1, NULL, CORRUPT}, {"duplicate", 1, NULL, DUPLICATE}, {"once", 0, NULL, ONCE},
    {"lossless", 0, NULL, LOSSLESS}, {"seed", 1, NULL, SEED}, {"control", 0, NULL, CONTROL}, {"hop", 1, NULL, HOP}, {"help", 0, NULL, HELP},
    {NULL, 0, NULL, 0},
};

static const char usage[] =
    "cpep-band: a wristband that plays a recording or noise; it prints the path of its pty\n"
    "  --port PATH --baud N     on a serial port, rather than on a pty (921600)\n"
    "  --stdio                  on standard input and output\n"
    "  --link PATH              make this symbolic link to the pty\n"
    "  --input FILE             values [n_samples][channels], little-endian, in the format of the stream\n"
    "  --channels N --rate HZ --uv-per-count UV   (16, 2000, 0.25)\n"
    "  --format i16|i24 --samples N --serial TEXT  of a value, in a frame, of the band (i16, 10, SIM-0001)\n"
    "  --speed X --drift-ppm X  times real time; how much too fast the band's clock runs\n"
    "  --loss P --corrupt P --duplicate P  chance of a DATA frame to suffer that\n"
    "  --once                   leave when the recording is over, rather than start over\n"
    "  --lossless               wait for a slow reader rather than drop frames\n"
    "  --seed N                 of the faults and the noise\n"
    "  --control                read letters: s prints what was sent so far, r reboots; leave at their end\n"
    "  --hop N                  samples between two predictions, of a band that was built with an engine\n";

static double number(const char *name, const char *value, double low, double high) {
    char *end;
    const double parsed = strtod(value, &end);
    if (*value == 0 || *end != 0 || !(parsed >= low && parsed <= high)) {
        fprintf(stderr, "--%s must be a number from %g to %g, not %s\n", name, low, high, value);
        exit(2);
    }
    return parsed;
}

static cpep_frame_text text_of(const char *value) {
    const size_t n = strlen(value);
    cpep_frame_text text = {(const uint8_t *)value, (uint8_t)(n > 64u ? 64u : n)};
    return text;
}

static uint8_t format_of(const char *value) {
    if (strcmp(value, "i16") == 0) return CPEP_FRAME_I16;
    if (strcmp(value, "i24") == 0) return CPEP_FRAME_I24;
    fprintf(stderr, "--format must be i16 or i24, not %s\n", value);
    exit(2);
}

static void read_options(simulated *s, int n_words, char **words) {
    settings *set = &s->set;
    int option, index = 0;
    while ((option = getopt_long(n_words, words, "", options, &index)) != -1) {
        const char *name = option < PORT ? "" : options[index].name;
        switch (option) {
        case PORT: set->port = optarg; break;
        case BAUD: set->info.baud = (uint32_t)number(name, optarg, 1, 1e8); break;
        case STDIO: set->stdio = true; break;
        case LINK: set->link = optarg; break;
        case INPUT: set->input = optarg; break;
        case CHANNELS: set->info.n_channels = (uint8_t)number(name, optarg, 1, CPEP_BAND_MAX_CHANNELS); break;
        case RATE: set->info.sample_rate_hz = (float)number(name, optarg, 1, 1e5); break;
        case UV_PER_COUNT: set->info.uv_per_count = (float)number(name, optarg, 1e-9, 1e9); break;
        case FORMAT: set->info.sample_format = format_of(optarg); break;
        case SAMPLES: set->info.n_samples = (uint8_t)number(name, optarg, 1, 255); break;
        case SERIAL: set->info.serial_number = text_of(optarg); break;
        case SPEED: set->speed = number(name, optarg, 1e-3, 1e4); break;
        case DRIFT: set->drift_ppm = number(name, optarg, -1e5, 1e5); break;
        case LOSS: s->line.loss = number(name, optarg, 0, 1); break;
        case CORRUPT: s->line.corrupt = number(name, optarg, 0, 1); break;
        case DUPLICATE: s->line.duplicate = number(name, optarg, 0, 1); break;
        case ONCE: set->once = true; break;
        case LOSSLESS: set->lossless = true; break;
        case SEED: set->seed = (uint64_t)number(name, optarg, 0, 9e15); break;
        case CONTROL: set->control = true; break;
        case HOP: set->hop_samples = (uint32_t)number(name, optarg, 1, 1e6); break;
        case HELP: fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    }
}

static void set_defaults(simulated *s) {
    cpep_frame_info *info = &s->set.info;
    uint8_t i;
    for (i = 0; i < CPEP_BAND_MAX_CHANNELS; i++) s->channel_order[i] = i;
    info->uv_per_count = 0.25f;
    info->sample_rate_hz = 2000;
    info->baud = 921600;
    info->n_samples = 10;
    info->n_channels = 16;
    info->model = text_of("simulated band, cpep firmware");
    info->serial_number = text_of("SIM-0001");
    info->firmware = text_of("1.0, protocol 1");
    s->set.speed = 1;
    s->hal = (cpep_band_hal){s, clock_us, receive, transmit, start, stop, take, measure, NULL};
}

static void open_line(simulated *s) {
    const settings *set = &s->set;
    const char *why = set->stdio ? line_open_stdio(&s->line)
                      : set->port != NULL ? line_open_tty(&s->line, set->port, set->info.baud)
                                          : line_open_pty(&s->line);
    if (why != NULL) fail(set->port != NULL ? set->port : "cannot open a pty", why);
}

/* Make the symbolic link to the pty; fail when `link` exists and is not a link to a pty. */
static void make_link(const char *link, const char *target) {
    char leads_to[PATH_MAX] = "";
    struct stat status;
    if (link == NULL) return;
    if (lstat(link, &status) == 0) {
        if (readlink(link, leads_to, sizeof leads_to - 1u) < 0 || strncmp(leads_to, "/dev/pts/", 9) != 0) {
            fail(link, "exists and is not a link to a simulated port: choose another name");
        }
        unlink(link);
    }
    if (symlink(target, link) != 0) fail(link, strerror(errno));
}

static void remove_link(const char *link, const char *target) {
    char leads_to[PATH_MAX] = "";
    if (link == NULL || readlink(link, leads_to, sizeof leads_to - 1u) < 0) return;
    if (strcmp(leads_to, target) == 0) unlink(link);
}

static void prepare(simulated *s) {
    settings *set = &s->set;
    const char *why;
    open_line(s);
    if (s->line.far_fd >= 0) set->info.baud = 0;
    if (set->stdio) set->info.baud = 0;
    set->info.channel_order.bytes = s->channel_order;
    set->info.channel_order.n = set->info.n_channels;
    s->clock_speed = set->speed * (1 + set->drift_ppm * 1e-6);
    s->line.random = (set->seed + 1u) * 0x9E3779B97F4A7C15u; /* never 0 */
    s->boots = (((uint64_t)time(NULL) << 20 ^ host_us()) << 20 ^ (uint64_t)getpid()) | 1u;
    s->playback.random = s->line.random;
    s->playback.n_channels = set->info.n_channels;
    s->playback.value_bytes = set->info.sample_format == CPEP_FRAME_I24 ? 3 : 2;
    s->playback.repeat = !set->once;
    if (set->hop_samples > 0) {
        s->classifier = recogniser_open(set->info.n_channels, set->hop_samples, clock_us, s);
        if (s->classifier == NULL) fail("--hop", "this band has no engine, or one for another number of channels");
    }
    if (set->input == NULL) return;
    why = playback_open(&s->playback, set->input);
    if (why != NULL) fail(set->input, why);
}

int main(int n_words, char **words) {
    static simulated s;
    struct sigaction on_end = {.sa_handler = hang_up};
    char pty[64] = "";
    set_defaults(&s);
    read_options(&s, n_words, words);
    prepare(&s);
    sigaction(SIGINT, &on_end, NULL);
    sigaction(SIGTERM, &on_end, NULL);
    on_end.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &on_end, NULL);
    boot(&s);
    if (s.line.far_fd >= 0) {
        snprintf(pty, sizeof pty, "%s", ptsname(s.line.in_fd));
        make_link(s.set.link, pty);
        puts(pty);
        fflush(stdout);
    }
    run(&s);
    remove_link(s.set.link, pty);
    if (s.set.control && !s.set.stdio) report(&s);
    return 0;
}
