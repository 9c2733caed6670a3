// What two events around a kernel add to it on one device, measured when the first recording begins.
//
// Nothing is compiled for the GPU here, so there is no kernel of our own: memsets of a few bytes serve. A pair around
// one of them lasts a memset longer than it costs, and each further memset adds itself and the gap between two kernels.
// The reader makes the cost out of these figures; the meta object's `event_pair` holds them.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace wanhook {

class Recording;

// The resolver's thread only. It lives as long as the process: the device may still look at it.
class PairCost {
 public:
  // One round: enqueues a measurement, or looks for its results and writes them into the recordings. Waits for nothing,
  // and after a few measurements, or a failed call, does nothing any more. The device must be current and the thread's
  // capture mode relaxed. `now`: CLOCK_MONOTONIC ns.
  void step(int device, const std::vector<Recording*>& recordings, int64_t now) noexcept;
  // What is known so far, for a recording that begins.
  void write(Recording* recording) const noexcept;

 private:
  static constexpr int kRepetitions = 7;
  static constexpr int kMany = 5;

  struct Pair {
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
  };
  struct Repetition {
    Pair empty;
    Pair one;
    Pair many;
  };
  struct Figures {
    int64_t least = 0;
    int64_t median = 0;
  };

  static void CUDART_CB hold(void* self) noexcept;
  cudaError_t prepare() noexcept;
  cudaError_t enqueue() noexcept;
  cudaError_t enqueue_pair(const Pair& pair, int memsets) noexcept;
  cudaError_t read(Pair Repetition::* pair, Figures* figures) const noexcept;
  cudaError_t take_results(int device) noexcept;
  void give_up() noexcept;

  cudaStream_t stream_ = nullptr;
  void* target_ = nullptr;
  Repetition repetitions_[kRepetitions];
  std::atomic<bool> released_{false};
  std::atomic<bool> overran_{false};
  bool running_ = false;
  int attempts_left_ = 5;
  int64_t next_attempt_ = 0;
  int64_t least_ = INT64_MAX;
  std::string json_;
};

}  // namespace wanhook
