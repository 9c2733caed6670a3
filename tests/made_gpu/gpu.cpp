#include "gpu.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <iterator>
#include <thread>

namespace made_gpu {

thread_local int current_device = 0;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
thread_local cudaError_t last_error = cudaSuccess;

namespace {

int64_t setting(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == 0 ? otherwise : std::atoll(value);
}

void nap(int64_t nanoseconds) {
  const timespec length{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
  nanosleep(&length, nullptr);
}

// Others wait for this process's part of a collective also while nobody here asks for anything.
void keep_going() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  for (;;) {
    nap(1'000'000);
    const Locked locked(/*ask=*/true);
  }
}

}  // namespace

uint64_t device_bytes() {
  static const auto bytes = static_cast<uint64_t>(setting("MADE_GPU_GIB", 64)) << 30;
  return bytes;
}

uint64_t reserved_bytes() {
  static const auto bytes = static_cast<uint64_t>(setting("MADE_GPU_GIB", 24 << 10)) << 30;
  return bytes;
}

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

uint64_t this_thread() {
  static std::atomic<uint64_t> next{1};
  thread_local const uint64_t number = next++;
  return number;
}

cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

int64_t kernel_nanoseconds() {
  static const int64_t length = setting("MADE_GPU_KERNEL_NS", 3'000);
  return length;
}

int64_t copy_nanoseconds(uint64_t bytes) { return 1'500 + static_cast<int64_t>(bytes / 1'000); }

Machine& Machine::get() {
  static Machine* machine = new Machine();  // outlives every thread that may still ask
  return *machine;
}

Machine::Machine() {
  devices = static_cast<int>(setting("MADE_GPU_DEVICES", 2));
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr) {
    int named = *visible == 0 ? 0 : 1;
    for (const char* at = visible; *at != 0; ++at) named += *at == ',';
    devices = named < devices ? named : devices;
  }
  for (int number = 0; number < devices; ++number) {
    void* range = mmap(nullptr, device_bytes() + reserved_bytes(), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) std::abort();
    device[number].begin = reinterpret_cast<uint64_t>(range);
    // As the real one does: addresses are multiples of 2 MiB.
    const uint64_t begin = (device[number].begin + (2 << 20) - 1) >> 21 << 21;
    device[number].memory.give(begin, device_bytes() - (4 << 20));
    device[number].reservations.give(begin + device_bytes(), reserved_bytes() - (4 << 20));
  }
  // Not in a child that forks before it asks for a GPU, nor in one that forks after: CUDA does not survive that either.
  std::thread(keep_going).detach();
}

Device& Machine::use(int number) {
  Device& used = device[number];
  if (!used.context) {
    used.context = true;
    used.used += uint64_t{500} << 20;
    used.legacy = std::make_unique<Stream>();
    used.legacy->device = number;
    used.streams.insert(used.legacy.get());
  }
  return used;
}

Stream* Machine::stream_of(cudaStream_t stream) {
  Device& used = use(current_device);
  if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread) return used.legacy.get();
  return reinterpret_cast<Stream*>(stream);
}

void Machine::issue(Stream* stream, Work work) {
  stream->items.push_back({now(), std::move(work)});
  ++stream->issued;
}

void Machine::kernel(cudaStream_t handle, int64_t nanoseconds) {
  Stream* stream = stream_of(handle);
  if (stream->capture != nullptr) {
    stream->capture->length += nanoseconds;
    return;
  }
  issue(stream, [nanoseconds](int64_t* time) {
    *time += nanoseconds;
    return true;
  });
}

bool Machine::advance() {
  bool any = false;
  for (bool more = true; more;) {
    more = false;
    for (int number = 0; number < devices; ++number) {
      for (Stream* stream : device[number].streams) {
        while (!stream->items.empty()) {
          const Stream::Item& item = stream->items.front();
          int64_t time = stream->time > item.issued ? stream->time : item.issued;
          if (!item.work(&time)) break;
          stream->time = time;
          stream->items.pop_front();
          ++stream->done;
          more = any = true;
        }
      }
    }
  }
  return any;
}

bool Machine::take(int number, uint64_t bytes) {
  Device& used = use(number);
  if (bytes > device_bytes() - (8 << 20) - used.used) return false;
  used.used += bytes;
  return true;
}

int Machine::device_of(const void* address) const {
  const auto where = reinterpret_cast<uint64_t>(address);
  for (int number = 0; number < devices; ++number) {
    if (where >= device[number].begin && where < device[number].begin + device_bytes() + reserved_bytes())
      return number;
  }
  return -1;
}

void wait_until(const std::function<bool(Machine&)>& done) {
  for (int64_t naps = 0;; ++naps) {
    {
      const Locked locked(/*ask=*/true);
      if (done(locked.machine)) return;
    }
    nap(naps < 20 ? 5'000 : 100'000);
  }
}

void wait_for_room(cudaStream_t handle) {
  const auto has_room = [handle](Machine& machine) { return machine.stream_of(handle)->items.size() < kQueuedItems; };
  {
    const Locked locked;
    if (has_room(locked.machine)) return;
  }
  wait_until(has_room);
}

cudaError_t wait_for_stream(cudaStream_t handle) {
  Stream* stream = nullptr;
  uint64_t target = 0;
  {
    const Locked locked;
    stream = locked.machine.stream_of(handle);
    if (stream->capture != nullptr) {
      stream->capture->invalidated = true;
      return fail(cudaErrorStreamCaptureUnsupported);
    }
    target = stream->issued;
  }
  wait_until([=](Machine&) { return stream->done >= target && (stream->done > target || stream->time <= now()); });
  return cudaSuccess;
}

bool forbidden_by_capture(Machine& machine) {
  bool forbidden = false;
  for (const std::shared_ptr<Capture>& capture : machine.captures) {
    const bool own = capture->thread == this_thread();
    const bool in_the_way =
        (capture_mode == cudaStreamCaptureModeGlobal && (capture->mode == cudaStreamCaptureModeGlobal ||
                                                         (own && capture->mode == cudaStreamCaptureModeThreadLocal))) ||
        (capture_mode == cudaStreamCaptureModeThreadLocal && own && capture->mode != cudaStreamCaptureModeRelaxed);
    if (in_the_way) capture->invalidated = forbidden = true;
  }
  return forbidden;
}

}  // namespace made_gpu
