#include "device/pair_cost.h"

#include <algorithm>
#include <cmath>

#include "core/clock.h"
#include "core/recording.h"

namespace wanhook {
namespace {

constexpr size_t kTargetBytes = 64;
constexpr int64_t kLongestHold = 2'000'000;   // ns
constexpr int64_t kBetweenAttempts = 500'000'000;
constexpr int64_t kSteady = 300;              // ns between the least and the median repetition of a quiet device

}  // namespace

// Holds the stream until all work is in its queue: what the host enqueues too slowly would be measured instead. It runs
// on the driver's callback thread, so it ends by itself, whatever becomes of the resolver.
void CUDART_CB PairCost::hold(void* self) noexcept {
  auto* cost = static_cast<PairCost*>(self);
  const int64_t began = read_clock(CLOCK_MONOTONIC);
  while (!cost->released_.load(std::memory_order_acquire)) {
    if (read_clock(CLOCK_MONOTONIC) - began <= kLongestHold) continue;
    cost->overran_.store(true, std::memory_order_release);
    return;
  }
}

cudaError_t PairCost::prepare() noexcept {
  int least = 0;
  int greatest = 0;
  cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (error == cudaSuccess) error = cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest);
  // Never freed: cudaFree would wait for the whole device.
  if (error == cudaSuccess) error = cudaMalloc(&target_, kTargetBytes);
  for (Repetition& each : repetitions_) {
    for (Pair* pair : {&each.empty, &each.one, &each.many}) {
      if (error == cudaSuccess) error = cudaEventCreate(&pair->begin);
      if (error == cudaSuccess) error = cudaEventCreate(&pair->end);
    }
  }
  return error;
}

cudaError_t PairCost::enqueue_pair(const Pair& pair, int memsets) noexcept {
  // A kernel goes ahead, because on a stream that is kept busy there is one.
  cudaError_t error = cudaMemsetAsync(target_, 0, kTargetBytes, stream_);
  if (error == cudaSuccess) error = cudaEventRecord(pair.begin, stream_);
  for (int number = 0; number < memsets && error == cudaSuccess; ++number) {
    error = cudaMemsetAsync(target_, 0, kTargetBytes, stream_);
  }
  return error == cudaSuccess ? cudaEventRecord(pair.end, stream_) : error;
}

cudaError_t PairCost::enqueue() noexcept {
  cudaError_t error = stream_ == nullptr ? prepare() : cudaSuccess;
  released_.store(false, std::memory_order_relaxed);
  overran_.store(false, std::memory_order_relaxed);
  if (error == cudaSuccess) error = cudaLaunchHostFunc(stream_, hold, this);
  for (const Repetition& each : repetitions_) {
    if (error == cudaSuccess) error = enqueue_pair(each.empty, 0);
    if (error == cudaSuccess) error = enqueue_pair(each.one, 1);
    if (error == cudaSuccess) error = enqueue_pair(each.many, kMany);
  }
  released_.store(true, std::memory_order_release);
  return error;
}

cudaError_t PairCost::read(Pair Repetition::* pair, Figures* figures) const noexcept {
  int64_t lengths[kRepetitions];
  for (int number = 0; number < kRepetitions; ++number) {
    float milliseconds = 0;
    const Pair& each = repetitions_[number].*pair;
    const cudaError_t error = cudaEventElapsedTime(&milliseconds, each.begin, each.end);
    if (error != cudaSuccess) return error;
    lengths[number] = std::llround(static_cast<double>(milliseconds) * 1e6);
  }
  std::sort(lengths, lengths + kRepetitions);
  figures->least = lengths[0];
  figures->median = lengths[kRepetitions / 2];
  return cudaSuccess;
}

cudaError_t PairCost::take_results(int device) noexcept {
  Figures empty;
  Figures one;
  Figures many;
  cudaError_t error = read(&Repetition::empty, &empty);
  if (error == cudaSuccess) error = read(&Repetition::one, &one);
  if (error == cudaSuccess) error = read(&Repetition::many, &many);
  // Work beside it can only lengthen a pair: the quietest measurement stands.
  if (error != cudaSuccess || overran_.load(std::memory_order_acquire) || many.least >= least_) return error;
  least_ = many.least;
  if (many.median - many.least <= kSteady) attempts_left_ = 0;
  json_ = "{\"event_pair\":{\"" + std::to_string(device) + "\":{\"empty_ns\":" + std::to_string(empty.least) +
          ",\"one_ns\":" + std::to_string(one.least) + ",\"many_ns\":" + std::to_string(many.least) +
          ",\"many\":" + std::to_string(kMany) + ",\"spread_ns\":" + std::to_string(one.median - one.least) + "}}}";
  return cudaSuccess;
}

void PairCost::give_up() noexcept {
  cudaGetLastError();
  attempts_left_ = 0;
  running_ = false;
}

void PairCost::step(int device, const std::vector<Recording*>& recordings, int64_t now) noexcept {
  if (!running_) {
    if (attempts_left_ == 0 || now < next_attempt_) return;
    --attempts_left_;
    next_attempt_ = now + kBetweenAttempts;
    running_ = true;
    if (enqueue() != cudaSuccess) give_up();
    return;
  }
  const cudaError_t state = cudaEventQuery(repetitions_[kRepetitions - 1].many.end);
  if (state == cudaErrorNotReady) return;
  const std::string before = json_;
  if (state != cudaSuccess || take_results(device) != cudaSuccess) return give_up();
  running_ = false;
  if (json_ == before) return;
  for (Recording* recording : recordings) write(recording);
}

void PairCost::write(Recording* recording) const noexcept {
  if (json_.empty()) return;
  MetaRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kMeta);
  record.text_bytes = static_cast<uint32_t>(json_.size());
  record.tick = tick_now();
  recording->append_cold(record, json_);
}

}  // namespace wanhook
