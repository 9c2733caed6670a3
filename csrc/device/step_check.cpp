#include "device/step_check.h"

#include <atomic>

#include "core/recorder.h"
#include "device/scopes.h"

namespace wanhook::step_check {
namespace {

// The recording whose step is under way. One that was stopped inside its step stays here, and counts for nothing.
std::atomic<Recording*> under_way{nullptr};

void give_up(Recording* recording) noexcept { under_way.compare_exchange_strong(recording, nullptr); }

// The finaliser of splitmix64: all bits of the result depend on all bits of the number.
uint64_t scrambled(uint64_t number) noexcept {
  number += 0x9e3779b97f4a7c15;
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
  number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
  return number ^ (number >> 31);
}

}  // namespace

ScopeVerify sort_of(uint32_t number) noexcept {
  const bool outer = number % 4 == 0 || number % 4 == 3;
  const bool swapped = (scrambled(number / 4) & 1) != 0;
  return outer != swapped ? ScopeVerify::kRecorded : ScopeVerify::kMuted;
}

ScopeVerify begin(Recording* recording) noexcept {
  Recording* before = under_way.load(std::memory_order_relaxed);
  if (before == recording || !under_way.compare_exchange_strong(before, recording)) return ScopeVerify::kNone;
  const ScopeVerify sort = sort_of(recording->next_verified_step());
  if (sort != ScopeVerify::kMuted || Recorder::get().pause(Hold::kMuted, recording) == GateResult::kOk) return sort;
  give_up(recording);  // another thread has stopped it, and the next one is not ours to mute
  return ScopeVerify::kNone;
}

void end(Recording* recording, ScopeVerify sort) noexcept {
  if (sort == ScopeVerify::kMuted) Recorder::get().resume(Hold::kMuted, recording);
  give_up(recording);  // after that: the gate is one step's alone to open
  if (Recorder::active() != recording) return;
  snapshot_state(recording, sort == ScopeVerify::kMuted ? StateReason::kResume : StateReason::kCheckpoint);
}

}  // namespace wanhook::step_check
