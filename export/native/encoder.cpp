// The C library on top of ExecuTorch's runtime and its XNNPACK backend.
//
// No portable kernels are linked: the export leaves no operator for them, and they would triple the size.

#include "encoder.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

// Declared here because the SDK has the thread pool's library but not its header. This partial declaration is enough:
// neither function is virtual or inline, and this file never creates or copies the object or uses its size.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t n_threads);
};
ThreadPool *get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

namespace runtime = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::extension::BufferDataLoader;
using executorch::extension::MallocMemoryAllocator;
using executorch::extension::threadpool::NoThreadPoolGuard;

constexpr const char *kMethod = "forward";
constexpr size_t kProgramAlignment = 16;  // of a flatbuffer

// ---- logging: an error that ExecuTorch logs during one of our calls goes into that call's error text, not to stderr

thread_local std::string *reason = nullptr;
pal_emit_log_message_method log_elsewhere = nullptr;

void keep_reason(et_timestamp_t time, et_pal_log_level_t level, const char *file, const char *function, size_t line,
                 const char *message, size_t length) {
  if (reason == nullptr) {
    log_elsewhere(time, level, file, function, line, message, length);
  } else if ((level == kError || level == kFatal) && reason->empty()) {
    reason->assign(message, length);  // the first error is the cause, later ones its consequences
  }
}

class Listening {
 public:
  Listening() : outer_(reason) { reason = &heard_; }
  ~Listening() { reason = outer_; }
  Listening(const Listening &) = delete;
  Listening &operator=(const Listening &) = delete;

  std::string heard() const { return heard_; }

 private:
  std::string heard_;
  std::string *outer_;
};

// Redirect ExecuTorch's log to keep_reason. Every cpep_open calls this, because the Python bindings of ExecuTorch may
// be loaded later and redirect the log themselves. The table is changed in place, because register_pal would print a
// notice on stderr.
void hear_reasons() {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  auto *platform = const_cast<runtime::PalImpl *>(runtime::get_pal_impl());
  if (platform->emit_log_message == keep_reason) return;
  log_elsewhere = platform->emit_log_message;
  platform->emit_log_message = keep_reason;
}

// ---- threads

// Let the first encoder set the pool's size. Resizing it once a program uses it would kill the process.
void claim_pool(uint32_t n_threads) {
  static std::mutex mutex;
  static uint32_t claimed = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  if (claimed == 0) {
    auto *pool = executorch::extension::threadpool::get_threadpool();
    if (pool == nullptr ||
        (pool->get_thread_count() != n_threads && !pool->_unsafe_reset_threadpool(n_threads))) {
      throw std::runtime_error("cannot start " + std::to_string(n_threads) + " threads");
    }
    claimed = n_threads;
  }
  if (claimed != n_threads) {
    throw std::runtime_error("this process already runs encoders on " + std::to_string(claimed) + " threads");
  }
}

// ---- errors: those of ExecuTorch become exceptions in this file, and text in the C functions

[[noreturn]] void fail(const char *what, runtime::Error error) {
  throw std::runtime_error(std::string(what) + " (" + runtime::to_string(error) + ")");
}

void require(runtime::Error error, const char *what) {
  if (error != runtime::Error::Ok) fail(what, error);
}

template <typename T>
T require(runtime::Result<T> result, const char *what) {
  if (!result.ok()) fail(what, result.error());
  return std::move(result.get());
}

void write_error(const char *text, const std::string &heard, char *error, size_t error_bytes) {
  if (error == nullptr || error_bytes == 0) return;
  std::snprintf(error, error_bytes, heard.empty() ? "%s" : "%s: %s", text, heard.c_str());
  for (char *c = error; *c != '\0'; ++c) {
    if (*c < ' ' || *c > '~') *c = '?';  // a message may contain bytes of the program
  }
}

// ---- the program

runtime::Program load_program(BufferDataLoader *loader, const void *program) {
  if (reinterpret_cast<uintptr_t>(program) % kProgramAlignment != 0) {
    throw std::runtime_error("the program is not aligned to 16 bytes");
  }
  return require(runtime::Program::load(loader, runtime::Program::Verification::InternalConsistency),
                 "the program is damaged or of another version");
}

std::vector<int32_t> float_sizes(runtime::Result<runtime::TensorInfo> info, const char *side) {
  if (!info.ok() || info->scalar_type() != ScalarType::Float) {
    throw std::runtime_error(std::string("the program's ") + side + " is no float32 tensor");
  }
  return {info->sizes().begin(), info->sizes().end()};
}

cpep_shape shape_of(const runtime::MethodMeta &meta) {
  if (meta.num_inputs() == 0 || meta.num_inputs() != meta.num_outputs()) {
    throw std::runtime_error("the program takes " + std::to_string(meta.num_inputs()) + " inputs and gives " +
                             std::to_string(meta.num_outputs()) + " outputs, not as many");
  }
  const auto window = float_sizes(meta.input_tensor_meta(0), "input");
  const auto embedding = float_sizes(meta.output_tensor_meta(0), "output");
  if (window.size() != 3 || window[0] != 1 || embedding.size() != 2 || embedding[0] != 1) {
    throw std::runtime_error("the program is no encoder: it does not map (1, channels, samples) to (1, numbers)");
  }
  return {window[1], window[2], embedding[1], static_cast<int32_t>(meta.num_inputs() - 1)};
}

// The planned arenas of a method: memory for the inputs and outputs of the backend.
class Arenas {
 public:
  explicit Arenas(const runtime::MethodMeta &meta) {
    for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
      const int64_t size = require(meta.memory_planned_buffer_size(i), "the program plans no memory");
      if (size < 0 || size > kMaxBytes) throw std::runtime_error("the program plans an impossible amount of memory");
      buffers_.push_back(std::make_unique<uint8_t[]>(static_cast<size_t>(size)));
      spans_.emplace_back(buffers_.back().get(), static_cast<size_t>(size));
    }
    allocator_ = std::make_unique<runtime::HierarchicalAllocator>(
        runtime::Span<runtime::Span<uint8_t>>(spans_.data(), spans_.size()));
  }

  runtime::HierarchicalAllocator *allocator() { return allocator_.get(); }

 private:
  static constexpr int64_t kMaxBytes = int64_t{1} << 30;

  std::vector<std::unique_ptr<uint8_t[]>> buffers_;
  std::vector<runtime::Span<uint8_t>> spans_;
  std::unique_ptr<runtime::HierarchicalAllocator> allocator_;
};

// The state of a streaming program between runs: all its inputs and outputs but the first.
class State {
 public:
  explicit State(const runtime::MethodMeta &meta) {
    for (size_t i = 1; i < meta.num_inputs(); ++i) {
      const auto sizes = float_sizes(meta.input_tensor_meta(i), "state");
      if (sizes != float_sizes(meta.output_tensor_meta(i), "state")) {
        throw std::runtime_error("the program gives state of another shape than it takes");
      }
      sizes_.emplace_back(sizes.begin(), sizes.end());
      values_.emplace_back(meta.input_tensor_meta(i)->nbytes() / sizeof(float), 0.0f);
    }
  }

  void give(runtime::Method *method) {
    for (size_t i = 0; i < values_.size(); ++i) {
      const auto n_axes = static_cast<ssize_t>(sizes_[i].size());
      executorch::aten::TensorImpl tensor(ScalarType::Float, n_axes, sizes_[i].data(), values_[i].data());
      require(method->set_input(executorch::aten::Tensor(&tensor), i + 1), "the state cannot be given to the program");
    }
  }

  void keep(const runtime::Method &method) {
    for (size_t i = 0; i < values_.size(); ++i) {
      const float *next = method.get_output(i + 1).toTensor().const_data_ptr<float>();
      std::memcpy(values_[i].data(), next, values_[i].size() * sizeof(float));
    }
  }

 private:
  std::vector<std::vector<executorch::aten::SizesType>> sizes_;
  std::vector<std::vector<float>> values_;
};

}  // namespace

struct cpep_encoder {
  cpep_encoder(const void *program_data, size_t program_bytes, uint32_t n_threads)
      : in_caller_only(n_threads == 1),
        loader(program_data, program_bytes),
        program(load_program(&loader, program_data)),
        meta(require(program.method_meta(kMethod), "the program has no method named forward")),
        shape(shape_of(meta)),
        state(meta),
        arenas(meta),
        memory(&method_allocator, arenas.allocator(), &temporary_allocator),
        method(load_method()) {}

  void run(const float *window, float *embedding) {
    const OneThread guard(in_caller_only);
    executorch::aten::SizesType sizes[] = {1, shape.n_channels, shape.window_samples};
    executorch::aten::TensorImpl tensor(ScalarType::Float, 3, sizes, const_cast<float *>(window));
    require(method.set_input(executorch::aten::Tensor(&tensor), 0), "the window cannot be given to the program");
    state.give(&method);
    require(method.execute(), "the program failed");
    state.keep(method);
    const auto &output = method.get_output(0).toTensor();
    std::memcpy(embedding, output.const_data_ptr(), sizeof(float) * static_cast<size_t>(shape.d_embed));
  }

  const bool in_caller_only;
  BufferDataLoader loader;
  runtime::Program program;
  const runtime::MethodMeta meta;
  const cpep_shape shape;
  State state;
  Arenas arenas;
  MallocMemoryAllocator method_allocator;
  MallocMemoryAllocator temporary_allocator;
  runtime::MemoryManager memory;
  runtime::Method method;

 private:
  // Hides the thread pool while it exists. XNNPACK uses the pool that it finds when a program is loaded; without one it
  // runs in the calling thread, and no thread is started.
  class OneThread {
   public:
    explicit OneThread(bool wanted) {
      if (wanted) guard_ = std::make_unique<NoThreadPoolGuard>();
    }

   private:
    std::unique_ptr<NoThreadPoolGuard> guard_;
  };

  runtime::Method load_method() {
    const OneThread guard(in_caller_only);
    return require(program.load_method(kMethod, &memory), "the program cannot be loaded");
  }
};

uint32_t cpep_abi_version(void) { return CPEP_ABI_VERSION; }

cpep_encoder *cpep_open(const void *program, size_t program_bytes, uint32_t n_threads, char *error,
                        size_t error_bytes) {
  runtime::runtime_init();
  hear_reasons();
  const Listening listening;
  try {
    if (program == nullptr || n_threads == 0) throw std::runtime_error("no program or no threads were given");
    if (n_threads > 1) claim_pool(n_threads);
    return new cpep_encoder(program, program_bytes, n_threads);
  } catch (const std::exception &failure) {
    write_error(failure.what(), listening.heard(), error, error_bytes);
    return nullptr;
  }
}

cpep_shape cpep_shape_of(const cpep_encoder *encoder) { return encoder->shape; }

int cpep_run(cpep_encoder *encoder, const float *window, float *embedding, char *error, size_t error_bytes) {
  const Listening listening;
  try {
    encoder->run(window, embedding);
    return 0;
  } catch (const std::exception &failure) {
    write_error(failure.what(), listening.heard(), error, error_bytes);
    return -1;
  }
}

void cpep_close(cpep_encoder *encoder) { delete encoder; }
