// GPUs that compute nothing: what torch asks of the CUDA runtime, of cuBLAS and of NCCL, answered without a device.
//
// Streams are queues of work with a time of their own (ns of CLOCK_MONOTONIC): a kernel takes its length and does
// nothing, a copy copies, an event takes the stream's time, a collective waits for the other ranks' processes and moves
// real data. Work is done when somebody asks for it, and every millisecond by a thread; it is seen as done once its
// time has come. So results are those of kernels that never ran, while order, waiting, errors and memory are a GPU's.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "addresses.h"

namespace made_gpu {

inline constexpr int kMostDevices = 8;
inline constexpr size_t kQueuedItems = 1024;  // of a stream: who has more work for it waits
// Of one device: its memory, 64 GiB, and addresses for expandable segments, which take many. MADE_GPU_GIB: so much of
// both, for programs that watch this one and have few addresses themselves.
uint64_t device_bytes();
uint64_t reserved_bytes();
inline constexpr uint64_t kMovedBytes = uint64_t{256} << 10;  // of a copy; the host's memory is not a GPU's

int64_t now();

struct Capture {
  uint64_t id = 0;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  uint64_t thread = 0;
  bool invalidated = false;
  int64_t length = 0;  // of its kernels
};

struct Event {
  int device = 0;
  bool timing = true;
  uint64_t issued = 0;  // how often it was recorded, and how many of these records were reached
  uint64_t done = 0;
  int64_t time = 0;
  std::shared_ptr<Capture> capture;  // the capture that it was recorded into
};

// What a stream has to do next. False: it has to wait for something else. `time` is the stream's, to be moved on.
using Work = std::function<bool(int64_t* time)>;

struct Stream {
  struct Item {
    int64_t issued;
    Work work;
  };
  int device = 0;
  int priority = 0;
  int64_t time = 0;
  uint64_t issued = 0;
  uint64_t done = 0;
  std::deque<Item> items;
  std::shared_ptr<Capture> capture;
};

struct Device {
  bool context = false;
  uint64_t begin = 0;  // of its addresses; device_bytes() of them, then reserved_bytes()
  uint64_t used = 0;
  Addresses memory;
  Addresses reservations;
  std::unique_ptr<Stream> legacy;
  std::set<Stream*> streams;
};

class Machine {
 public:
  static Machine& get();

  std::mutex mutex;  // held by whoever touches anything below
  int devices = 2;
  Device device[kMostDevices];
  std::map<uint64_t, uint64_t> pinned;
  std::unordered_map<uint64_t, std::pair<int, uint64_t>> handles;  // memory of expandable segments: device, bytes
  uint64_t next_handle = 1;
  uint64_t next_capture = 1;
  std::set<std::shared_ptr<Capture>> captures;

  // The device's context, made at the first use as the runtime does it.
  Device& use(int number);
  Stream* stream_of(cudaStream_t stream);
  void issue(Stream* stream, Work work);
  void kernel(cudaStream_t stream, int64_t nanoseconds);
  bool advance();  // does what can be done; whether anything was
  bool take(int number, uint64_t bytes);
  int device_of(const void* address) const;  // -1: the host's

 private:
  Machine();
};

// One lock a call; work that can be done is done first where `ask`.
class Locked {
 public:
  explicit Locked(bool ask = false) : machine(Machine::get()), lock_(machine.mutex) {
    if (ask) machine.advance();
  }
  Machine& machine;

 private:
  std::unique_lock<std::mutex> lock_;
};

// Returns when done() holds, doing work meanwhile. The machine must not be locked.
void wait_until(const std::function<bool(Machine&)>& done);

extern thread_local int current_device;
extern thread_local cudaStreamCaptureMode capture_mode;
extern thread_local cudaError_t last_error;
uint64_t this_thread();

cudaError_t fail(cudaError_t error);
// Until all that was issued on it before is done. Forbidden during its capture.
cudaError_t wait_for_stream(cudaStream_t stream);
// Until the stream's queue takes more work. The machine must not be locked.
void wait_for_room(cudaStream_t stream);
// A call that a capture forbids, by the runtime's rules: it invalidates the captures in its way. The machine is locked.
bool forbidden_by_capture(Machine& machine);

int64_t kernel_nanoseconds();
int64_t copy_nanoseconds(uint64_t bytes);
void* driver_function(const char* name);

}  // namespace made_gpu
