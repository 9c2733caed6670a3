#include "device/span_timer.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <new>
#include <vector>

#include "core/hook_profile.h"
#include "core/recorder.h"
#include "device/device_timer.h"

namespace wanhook {
namespace {

constexpr int kMaxDevices = 64;
constexpr uint32_t kIndexBits = 20;  // a timer's number: device above, index of the pair below, plus 1
static_assert(EventPool::kBlockPairs * EventPool::kMaxBlocks <= (1u << kIndexBits));

std::atomic<DeviceTimer*> timers[kMaxDevices];

DeviceTimer* timer_of(int device) noexcept {
  if (device < 0 || device >= kMaxDevices) return nullptr;
  DeviceTimer* timer = timers[device].load(std::memory_order_acquire);
  if (timer != nullptr) return timer;
  auto* fresh = new (std::nothrow) DeviceTimer(device);
  if (timers[device].compare_exchange_strong(timer, fresh, std::memory_order_acq_rel)) return fresh;
  delete fresh;
  return timer;
}

// Events belong to the device that is current when they are made, the legacy stream is the current device's, and even a
// call with a stream of another device makes a context on the current one.
class CurrentDevice {
 public:
  // `known`: the caller has just seen that the device is current.
  CurrentDevice(int device, bool known) noexcept : ok_(known) {
    if (known) return;
    int current = -1;
    ok_ = cudaGetDevice(&current) == cudaSuccess;
    if (!ok_) cudaGetLastError();
    if (!ok_ || current == device) return;
    const StreamProvider* provider = stream_provider();
    ok_ = provider != nullptr;
    if (ok_) previous_ = provider->enter_device(device);
    ok_ = previous_ >= 0;
  }
  ~CurrentDevice() {
    if (previous_ >= 0) stream_provider()->leave_device(previous_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  bool ok() const noexcept { return ok_; }

 private:
  int previous_ = -1;
  bool ok_ = false;
};

cudaError_t record(cudaEvent_t event, cudaStream_t stream, [[maybe_unused]] HookPart part) noexcept {
  WANHOOK_TIME_HOOK(part);
  return cudaEventRecord(event, stream);
}

struct Running {
  DeviceTimer* timer;
  uint32_t index;
};

Running find(uint32_t number) noexcept {
  return {timers[(number - 1) >> kIndexBits].load(std::memory_order_relaxed), (number - 1) & ((1u << kIndexBits) - 1)};
}

std::vector<Recording*> unfinished_recordings() {
  std::vector<Recording*> recordings;
  for (const Recorder::Unfinished& each : Recorder::get().unfinished()) recordings.push_back(each.recording);
  return recordings;
}

}  // namespace

DeviceTimer* device_timer(int device) noexcept { return timer_of(device); }

uint32_t SpanTimer::begin(Recording* recording, StreamRef stream) noexcept {
  if (stream.device < 0 || stream.capturing || WANHOOK_LEFT_OUT(kNoGpuEvents)) return 0;
  DeviceTimer* timer = timer_of(stream.device);
  if (timer == nullptr || timer->failed()) return 0;
  const CurrentDevice current(stream.device, stream.current);
  if (!current.ok()) return 0;
  const uint32_t index = timer->pool().take();
  if (index == EventPool::kNone) return 0;
  EventPair& pair = timer->pool().pair(index);
  pair.recording = recording;
  pair.stream = static_cast<cudaStream_t>(stream.stream);
  const cudaError_t error = record(pair.begin, pair.stream, HookPart::kBeginEvent);
  if (error != cudaSuccess) {
    timer->pool().put_back(index);
    timer->note_error(error);
    return 0;
  }
  timer->note_success();
  timer->pool().fetch_next();
  return ((static_cast<uint32_t>(stream.device) << kIndexBits) | index) + 1;
}

void SpanTimer::end(uint32_t number, SpanOwner owner_type, uint32_t owner) noexcept {
  if (number == 0) return;
  const Running running = find(number);
  EventPair& pair = running.timer->pool().pair(running.index);
  fetch_event(pair.end);
  pair.owner_type = owner_type;
  pair.owner = owner;
  const CurrentDevice current(pair.device, /*known=*/false);
  // A stream that has begun a capture since cannot take this event: the span is lost, the capture is not.
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaError_t error = current.ok() ? cudaStreamIsCapturing(pair.stream, &capture) : cudaErrorInvalidDevice;
  // Known before the event, which can wait for room in the stream: a stop meanwhile leaves the file open for it.
  pair.recording->span_opened();
  if (error == cudaSuccess && capture == cudaStreamCaptureStatusNone)
    error = record(pair.end, pair.stream, HookPart::kEndEvent);
  if (error != cudaSuccess && current.ok()) running.timer->note_error(error);
  if (error != cudaSuccess || capture != cudaStreamCaptureStatusNone) {
    pair.recording->span_closed();
    abandon(number);
    return;
  }
  running.timer->submit(running.index);
}

void SpanTimer::abandon(uint32_t number) noexcept {
  if (number == 0) return;
  const Running running = find(number);
  running.timer->pool().put_back(running.index);
}

bool SpanTimer::resolve() noexcept {
  bool pending = false;
  const std::vector<Recording*> recordings = unfinished_recordings();
  for (const std::atomic<DeviceTimer*>& timer : timers) {
    DeviceTimer* each = timer.load(std::memory_order_acquire);
    if (each != nullptr) pending = each->resolve(recordings) || pending;
  }
  return pending;
}

void SpanTimer::write_final_anchors(Recording* recording) noexcept {
  for (const std::atomic<DeviceTimer*>& timer : timers) {
    DeviceTimer* each = timer.load(std::memory_order_acquire);
    if (each != nullptr) each->write_anchor({recording});
  }
}

std::vector<DeviceInUse> SpanTimer::devices_in_use() {
  std::vector<DeviceInUse> found;
  for (int device = 0; device < kMaxDevices; ++device) {
    DeviceTimer* timer = timers[device].load(std::memory_order_acquire);
    const char* id = timer == nullptr ? nullptr : timer->pci_bus_id();
    if (id != nullptr) found.push_back({device, id});
  }
  return found;
}

uint32_t SpanTimer::outstanding() noexcept {
  uint32_t count = 0;
  for (const std::atomic<DeviceTimer*>& timer : timers) {
    DeviceTimer* each = timer.load(std::memory_order_acquire);
    if (each != nullptr) count += each->outstanding();
  }
  return count;
}

}  // namespace wanhook
