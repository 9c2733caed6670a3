#include "device/device_timer.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/clock.h"
#include "core/recorder.h"

namespace wanhook {
namespace {

constexpr int64_t kAnchorPeriod = 1'000'000'000;
constexpr uint32_t kDenseAnchors = 5;  // in the first rounds of a recording, so that short ones have good anchors too
constexpr int64_t kFirstSpin = 100'000;  // ns; a stream of our own is reached within ~16 µs also under load
constexpr int64_t kLongestSpinEver = 20'000'000;
constexpr int kMostErrorsInARow = 8;
constexpr uint32_t kReadyPairs = 512;

int64_t elapsed_ns(cudaEvent_t from, cudaEvent_t to, cudaError_t* error) noexcept {
  float milliseconds = 0;
  *error = cudaEventElapsedTime(&milliseconds, from, to);
  return std::llround(static_cast<double>(milliseconds) * 1e6);
}

}  // namespace

void DeviceTimer::note_error(cudaError_t error) noexcept {
  cudaGetLastError();
  if (errors_in_a_row_.fetch_add(1, std::memory_order_relaxed) + 1 >= kMostErrorsInARow) fail(error);
}

void DeviceTimer::fail(cudaError_t error) noexcept {
  cudaGetLastError();
  error_.store(error, std::memory_order_relaxed);
  failed_.store(true, std::memory_order_release);
}

void DeviceTimer::say_failure() noexcept {
  if (said_failure_) return;
  said_failure_ = true;
  const char* reason = cudaGetErrorString(static_cast<cudaError_t>(error_.load(std::memory_order_relaxed)));
  Recorder::get().say_and_note("GPU times of device " + std::to_string(device_) + " end early: " + reason);
}

void DeviceTimer::submit(uint32_t index) noexcept {
  uint32_t head = submitted_.load(std::memory_order_relaxed);
  do {
    pair(index).next.store(head, std::memory_order_relaxed);
  } while (!submitted_.compare_exchange_weak(head, index + 1, std::memory_order_release, std::memory_order_relaxed));
}

bool DeviceTimer::enter() noexcept {
  if (failed()) return false;
  cudaError_t error = cudaSetDevice(device_);
  if (error == cudaSuccess && anchor_stream_ != nullptr) return true;
  // An event query in the default mode would invalidate a graph capture of another thread. Only now, because this call
  // makes a context on whatever device is current, and before cudaSetDevice that is device 0 in every rank.
  thread_local const bool relaxed = [] {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    return cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess;
  }();
  int least = 0;
  int greatest = 0;
  if (error == cudaSuccess && !relaxed) error = cudaErrorNotSupported;
  if (error == cudaSuccess) error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (error == cudaSuccess) error = cudaEventCreate(&reference_.event);
  if (error == cudaSuccess) error = cudaEventCreate(&spare_reference_);
  if (error == cudaSuccess) error = cudaStreamCreateWithPriority(&anchor_stream_, cudaStreamNonBlocking, greatest);
  if (error != cudaSuccess) fail(error);
  return error == cudaSuccess;
}

void DeviceTimer::collect() noexcept {
  uint32_t head = submitted_.exchange(0, std::memory_order_acquire);
  uint32_t oldest = 0;  // the list is newest first: turn it round
  while (head != 0) {
    const uint32_t next = pair(head - 1).next.load(std::memory_order_relaxed);
    pair(head - 1).next.store(oldest, std::memory_order_relaxed);
    oldest = head;
    head = next;
  }
  for (; oldest != 0; oldest = pair(oldest - 1).next.load(std::memory_order_relaxed)) {
    pending_[pair(oldest - 1).stream].push_back(oldest - 1);
  }
}

bool DeviceTimer::make_reference(uint64_t* tick, uint64_t* tick_after) noexcept {
  if (longest_spin_ == 0) longest_spin_ = kFirstSpin;
  *tick = tick_now();
  const int64_t began = read_clock(CLOCK_MONOTONIC);
  if (cudaEventRecord(spare_reference_, anchor_stream_) != cudaSuccess) return false;
  cudaError_t state = cudaErrorNotReady;
  while ((state = cudaEventQuery(spare_reference_)) == cudaErrorNotReady) {
    if (read_clock(CLOCK_MONOTONIC) - began <= longest_spin_) continue;
    // A wide anchor is better than none: be more patient next time.
    longest_spin_ = std::min(2 * longest_spin_, kLongestSpinEver);
    return false;
  }
  *tick_after = tick_now();
  if (state != cudaSuccess) return false;
  cudaError_t error = cudaSuccess;
  const int64_t step = anchors_ == 0 ? 0 : elapsed_ns(reference_.event, spare_reference_, &error);
  if (error != cudaSuccess) return false;
  std::swap(reference_.event, spare_reference_);
  reference_.gpu_ns += step;
  reference_.number = anchors_++;
  return true;
}

bool DeviceTimer::write_anchor(const std::vector<Recording*>& recordings) noexcept {
  if (!enter()) return false;
  uint64_t tick = 0;
  uint64_t tick_after = 0;
  if (!make_reference(&tick, &tick_after)) return false;
  ClockAnchorRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kClockAnchor);
  record.flags = kAnchorGpu;
  record.device = static_cast<int8_t>(device_);
  record.reference = reference_.number;
  record.tick = tick;
  record.tick_after = tick_after;
  record.gpu = reference_.gpu_ns;
  for (Recording* recording : recordings) recording->append_cold(record);
  return true;
}

const char* DeviceTimer::pci_bus_id() noexcept {
  // Asked only once enter() has set the device up: it has its context by then, so this cannot be the call that makes
  // it.
  if (pci_bus_id_[0] == 0 && anchor_stream_ != nullptr && !failed() &&
      cudaDeviceGetPCIBusId(pci_bus_id_, sizeof(pci_bus_id_), device_) != cudaSuccess) {
    cudaGetLastError();
    pci_bus_id_[0] = 0;
  }
  return pci_bus_id_[0] == 0 ? nullptr : pci_bus_id_;
}

uint32_t DeviceTimer::take_lent() noexcept {
  const uint32_t index = lent_.take();
  return index == EventPool::kNone ? index : index | kLent;
}

void DeviceTimer::put_back(uint32_t index) noexcept {
  if ((index & kLent) == 0) return pool_.put_back(index);
  EventPair& lent = pair(index);
  lent.release(lent.keeper);
  lent.release = nullptr;
  lent_.put_back(index & ~kLent);
}

// Asks for the length first, which answers NotReady until the pair is finished: cudaEventQuery would be one call more,
// and costs seven times as much. Pairs of one stream finish in order, so one such answer is enough for a round.
bool DeviceTimer::write_span(EventPair& pair) noexcept {
  cudaError_t error = cudaSuccess;
  const int64_t length = elapsed_ns(pair.begin, pair.end, &error);
  const int64_t offset = error == cudaSuccess ? elapsed_ns(reference_.event, pair.begin, &error) : 0;
  if (error == cudaErrorInvalidResourceHandle && pair.release != nullptr) {
    pair.recording->file().add_dropped(1);  // lent events without a time: no reason to give up on our own
    return true;
  }
  if (error != cudaSuccess) {
    if (error != cudaErrorNotReady) fail(error);
    return false;
  }
  if (pair.recording->finished()) return true;  // it was given up at exit
  GpuSpanRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kGpuSpan);
  record.owner_type = static_cast<uint8_t>(pair.owner_type);
  record.device = pair.device;
  record.owner = pair.owner;
  record.begin = reference_.gpu_ns + offset;
  record.end = record.begin + length;
  record.stream = reinterpret_cast<uint64_t>(pair.stream);
  record.reference = reference_.number;
  pair.recording->append_resolved(record);
  return true;
}

// After a failure nothing more can be learnt from the events: let the recordings end.
void DeviceTimer::drop_pending() noexcept {
  for (auto& [stream, queue] : pending_) {
    for (const uint32_t index : queue) {
      pair(index).recording->file().add_dropped(1);
      pair(index).recording->span_closed();
    }
    queue.clear();
  }
}

// What waits in vain would answer NotReady for ever where a query tells what has become of the device.
void DeviceTimer::look_for_failure() noexcept {
  for (const auto& [stream, queue] : pending_) {
    if (queue.empty()) continue;
    const cudaError_t state = cudaEventQuery(pair(queue.front()).end);
    if (state != cudaSuccess && state != cudaErrorNotReady) return fail(state);
  }
}

bool DeviceTimer::resolve(const std::vector<Recording*>& recordings) noexcept {
  collect();
  if (!enter()) {
    say_failure();
    drop_pending();
    return false;
  }
  const int64_t now = read_clock(CLOCK_MONOTONIC);
  if (!recordings.empty() && recordings.back() != newest_) {
    newest_ = recordings.back();
    dense_anchors_left_ = kDenseAnchors;
    pair_cost_.write(newest_);
  }
  if (now >= next_anchor_ || dense_anchors_left_ > 0) {
    if (write_anchor(recordings) && dense_anchors_left_ > 0) --dense_anchors_left_;
    next_anchor_ = now + kAnchorPeriod;
    look_for_failure();
  }
  if (anchors_ == 0) return true;
  if (dense_anchors_left_ == 0) pair_cost_.step(device_, recordings, now);
  pool_.refill(kReadyPairs);
  bool pending = false;
  for (auto& [stream, queue] : pending_) {
    // Two threads that share a stream may submit in another order than they recorded: then the rest waits.
    while (!queue.empty() && write_span(pair(queue.front()))) {
      pair(queue.front()).recording->span_closed();
      put_back(queue.front());
      queue.pop_front();
    }
    pending = pending || !queue.empty();
  }
  cudaGetLastError();  // NotReady, on this thread
  return pending;
}

}  // namespace wanhook
