// cpep-encode: run an encoder program without Python, with the same library that Python uses.
//
//   cpep-encode MODEL.pte WINDOWS.f32      windows of raw float32, one after the other; "-" reads stdin
//     --raw           write embeddings as raw float32 instead of one line of text per window
//     --threads N     1 by default
//     --bench N       run the first window N times and print the times as one JSON object, instead of embeddings
//
// Exit status: 0 done, 1 failed, 2 wrong usage. A failure prints one line `error: ...` on stderr.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "encoder.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr long kMaxRuns = 10'000'000;
constexpr long kMaxThreads = 256;

struct Usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string model;
  std::string windows;
  bool raw = false;
  long n_threads = 1;
  long n_runs = 0;  // 0: no benchmark
};

long parse_count(const char *name, const char *text, long largest) {
  char *end = nullptr;
  errno = 0;
  const long value = text == nullptr ? 0 : std::strtol(text, &end, 10);
  if (text == nullptr || *end != '\0' || errno != 0 || value < 1 || value > largest) {
    throw Usage(std::string(name) + " takes a number from 1 to " + std::to_string(largest));
  }
  return value;
}

Options parse(int argc, char **argv) {
  Options options;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--raw") {
      options.raw = true;
    } else if (word == "--threads") {
      options.n_threads = parse_count("--threads", argv[++i], kMaxThreads);
    } else if (word == "--bench") {
      options.n_runs = parse_count("--bench", argv[++i], kMaxRuns);
    } else if (word.size() > 1 && word[0] == '-') {
      throw Usage("there is no option " + word);
    } else {
      names.push_back(word);
    }
  }
  if (names.size() != 2) throw Usage("usage: cpep-encode MODEL.pte WINDOWS.f32 [--raw] [--threads N] [--bench N]");
  options.model = names[0];
  options.windows = names[1];
  return options;
}

[[noreturn]] void fail_with_errno(const std::string &path) {
  throw std::runtime_error(path + ": " + std::strerror(errno));
}

// A whole file, mapped into memory: pages are loaded when they are read, and none is copied.
class MappedFile {
 public:
  explicit MappedFile(const std::string &path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail_with_errno(path);
    struct stat status {};
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
      close(file);
      throw std::runtime_error(path + ": is no file, or an empty one");
    }
    size_ = static_cast<size_t>(status.st_size);
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (data_ == MAP_FAILED) fail_with_errno(path);
  }
  ~MappedFile() { munmap(data_, size_); }
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;

  const void *data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void *data_ = nullptr;
  size_t size_ = 0;
};

class Encoder {
 public:
  Encoder(const MappedFile &program, long n_threads) {
    char error[512];
    handle_ = cpep_open(program.data(), program.size(), static_cast<uint32_t>(n_threads), error, sizeof error);
    if (handle_ == nullptr) throw std::runtime_error(error);
    const cpep_shape shape = cpep_shape_of(handle_);
    window_size_ = static_cast<size_t>(shape.n_channels) * static_cast<size_t>(shape.window_samples);
    embedding_.resize(static_cast<size_t>(shape.d_embed));
  }
  ~Encoder() { cpep_close(handle_); }
  Encoder(const Encoder &) = delete;
  Encoder &operator=(const Encoder &) = delete;

  size_t window_size() const { return window_size_; }  // in floats

  const std::vector<float> &embed(const float *window) {
    char error[512];
    if (cpep_run(handle_, window, embedding_.data(), error, sizeof error) != 0) throw std::runtime_error(error);
    return embedding_;
  }

 private:
  cpep_encoder *handle_ = nullptr;
  size_t window_size_ = 0;
  std::vector<float> embedding_;
};

// Reads one window at a time, so that an endless pipe works.
class Windows {
 public:
  Windows(const std::string &path, size_t window_size)
      : path_(path), file_(path == "-" ? stdin : std::fopen(path.c_str(), "rb")), window_(window_size) {
    if (file_ == nullptr) fail_with_errno(path);
  }
  ~Windows() {
    if (file_ != stdin) std::fclose(file_);
  }
  Windows(const Windows &) = delete;
  Windows &operator=(const Windows &) = delete;

  const float *next() {
    const size_t bytes = window_.size() * sizeof(float);
    const size_t got = std::fread(window_.data(), 1, bytes, file_);
    if (std::ferror(file_) != 0) fail_with_errno(path_);
    if (got == 0) return nullptr;
    if (got != bytes) {
      throw std::runtime_error(path_ + ": ends inside a window: " + std::to_string(got) + " bytes of " +
                               std::to_string(bytes));
    }
    return window_.data();
  }

 private:
  std::string path_;
  std::FILE *file_;
  std::vector<float> window_;
};

void print(const std::vector<float> &embedding, bool raw) {
  if (raw) {
    std::fwrite(embedding.data(), sizeof(float), embedding.size(), stdout);
  } else {
    for (size_t i = 0; i < embedding.size(); ++i) std::printf(i == 0 ? "%.9g" : " %.9g", double{embedding[i]});
    std::fputc('\n', stdout);
  }
  if (std::fflush(stdout) != 0) fail_with_errno("stdout");
}

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// The smallest value such that a share of all values does not exceed it.
double quantile(const std::vector<double> &sorted, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

// The peak of getrusage cannot be used, because it includes that of the process that started this one.
long peak_rss_bytes() {
  std::FILE *status = std::fopen("/proc/self/status", "r");
  if (status == nullptr) fail_with_errno("/proc/self/status");
  long peak_kb = 0;
  char line[256];
  while (std::fgets(line, sizeof line, status) != nullptr && std::sscanf(line, "VmHWM: %ld kB", &peak_kb) != 1) {
  }
  std::fclose(status);
  return peak_kb * 1024L;
}

void bench(Encoder &encoder, const float *window, const Options &options, double open_ms) {
  const auto first_start = Clock::now();
  encoder.embed(window);
  const double first_ms = ms_since(first_start);
  for (long i = 0; i < std::min(options.n_runs / 10, 100L); ++i) encoder.embed(window);  // warm up clocks and caches
  std::vector<double> run_ms;
  for (long i = 0; i < options.n_runs; ++i) {
    const auto start = Clock::now();
    encoder.embed(window);
    run_ms.push_back(ms_since(start));
  }
  std::sort(run_ms.begin(), run_ms.end());
  std::printf(
      "{\"n\": %ld, \"n_threads\": %ld, \"open_ms\": %.3f, \"first_ms\": %.3f, \"p50_ms\": %.4f, \"p95_ms\": %.4f, "
      "\"p99_ms\": %.4f, \"max_ms\": %.4f, \"peak_rss_bytes\": %ld}\n",
      options.n_runs, options.n_threads, open_ms, first_ms, quantile(run_ms, 0.50), quantile(run_ms, 0.95),
      quantile(run_ms, 0.99), run_ms.back(), peak_rss_bytes());
}

void run(const Options &options) {
  const auto start = Clock::now();
  const MappedFile program(options.model);
  Encoder encoder(program, options.n_threads);
  const double open_ms = ms_since(start);
  Windows windows(options.windows, encoder.window_size());
  const float *window = windows.next();
  if (window == nullptr) throw std::runtime_error(options.windows + ": holds no window");
  if (options.n_runs > 0) {
    bench(encoder, window, options, open_ms);
    return;
  }
  for (; window != nullptr; window = windows.next()) print(encoder.embed(window), options.raw);
}

}  // namespace

int main(int argc, char **argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const Usage &wrong) {
    std::fprintf(stderr, "error: %s\n", wrong.what());
    return 2;
  } catch (const std::exception &failure) {
    std::fprintf(stderr, "error: %s\n", failure.what());
    return 1;
  }
}
