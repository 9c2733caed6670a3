// One GPU's timeline: its event pairs, the pairs that wait to be resolved, and the chain of reference events that all
// times are measured against.
//
// cudaEventElapsedTime gives float milliseconds: exact to 0.06 µs over a second, to 8 µs over 100 s. So a new reference
// is recorded about once a second, and each span is measured against the newest one.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "device/event_pool.h"
#include "device/pair_cost.h"

namespace wanhook {

class DeviceTimer {
 public:
  explicit DeviceTimer(int device) : pool_(device), lent_(device, /*lent=*/true), device_(device) {}

  // Any thread ---------------------------------------------------------------------------------------------------
  EventPool& pool() noexcept { return pool_; }
  bool failed() const noexcept { return failed_.load(std::memory_order_relaxed); }
  // A CUDA call of ours failed and left its error behind, which the host program must not find. A stream that was
  // destroyed costs its own spans; eight errors in a row are a device that answers nothing any more, and end its
  // timing.
  void note_error(cudaError_t error) noexcept;
  void note_success() noexcept {
    if (errors_in_a_row_.load(std::memory_order_relaxed) != 0) errors_in_a_row_.store(0, std::memory_order_relaxed);
  }
  [[gnu::hot]] void submit(uint32_t pair) noexcept;
  // A place for two events that somebody else recorded: fill in its pair, then submit it. EventPool::kNone when there
  // is none. The keeper is released on the resolver's thread, with the device current, when the span is written.
  uint32_t take_lent() noexcept;
  EventPair& pair(uint32_t index) noexcept {
    return (index & kLent) != 0 ? lent_.pair(index & ~kLent) : pool_.pair(index);
  }
  // Pairs that are running or wait for the resolver.
  uint32_t outstanding() const noexcept { return pool_.created() - pool_.ready() + lent_.created() - lent_.ready(); }

  // The resolver's thread ------------------------------------------------------------------------------------------
  bool resolve(const std::vector<Recording*>& recordings) noexcept;
  // False when the device did not answer in time.
  bool write_anchor(const std::vector<Recording*>& recordings) noexcept;
  // Null while it is not known.
  const char* pci_bus_id() noexcept;

 private:
  struct Reference {
    cudaEvent_t event = nullptr;
    int64_t gpu_ns = 0;  // since the first reference
    uint32_t number = 0;
  };

  static constexpr uint32_t kLent = uint32_t{1} << 31;  // marks an index of lent_

  bool enter() noexcept;
  void put_back(uint32_t index) noexcept;
  void collect() noexcept;
  bool make_reference(uint64_t* tick, uint64_t* tick_after) noexcept;
  bool write_span(EventPair& pair) noexcept;
  void look_for_failure() noexcept;
  void drop_pending() noexcept;
  // Ends the timing of this device for good. The resolver says so, once.
  void fail(cudaError_t error) noexcept;
  void say_failure() noexcept;

  // What begin and end of a span touch lies in the first cache line, the head of the pool and its first block included.
  alignas(64) std::atomic<uint32_t> submitted_{0};  // index + 1, linked through EventPair::next
  std::atomic<int> errors_in_a_row_{0};
  std::atomic<bool> failed_{false};
  EventPool pool_;
  EventPool lent_;
  const int device_;
  std::atomic<int> error_{cudaSuccess};  // why it failed

  PairCost pair_cost_;
  cudaStream_t anchor_stream_ = nullptr;
  cudaEvent_t spare_reference_ = nullptr;
  Reference reference_;
  int64_t next_anchor_ = 0;  // CLOCK_MONOTONIC ns
  int64_t longest_spin_ = 0;
  uint32_t anchors_ = 0;
  uint32_t dense_anchors_left_ = 0;
  Recording* newest_ = nullptr;
  bool said_failure_ = false;
  char pci_bus_id_[32] = {};
  std::unordered_map<cudaStream_t, std::deque<uint32_t>> pending_;
};

// The timer of a device, made at the first call; null for a device beyond those that can be timed.
DeviceTimer* device_timer(int device) noexcept;

}  // namespace wanhook
