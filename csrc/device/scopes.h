// Named stretches of the program: the records of a scope, its GPU timer, and the memory samples at its edges.
//
// begin_scope() and end_scope() run on the host program's threads, take no lock and never throw. Which scope encloses
// which is the caller's knowledge (threads, tasks); here a scope is a value.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/recording.h"

namespace wanhook {

struct Scope {
  Recording* recording = nullptr;  // null: the scope is not recorded
  uint32_t id = 0;
  uint32_t timer = 0;
  ScopeLevel level = ScopeLevel::kStage;
  bool captured = false;
  float used = 0;                  // share of the device's memory that was in use at the begin; 0: not looked at
  ScopeVerify verify = ScopeVerify::kNone;
};

struct ScopeRequest {
  uint32_t name = 0;
  uint32_t parent = 0;
  const Recording* parent_recording = nullptr;  // that the parent is in; in another one the scope is a root
  ScopeLevel level = ScopeLevel::kStage;
  ScopeType type = ScopeType::kTrace;
  bool verify = false;    // a step of the perturbation check
  std::string_view args;  // JSON object, at most kMaxTextBytes
};

[[gnu::hot]] Scope begin_scope(const ScopeRequest& request) noexcept;
// The share in use at the end, like Scope::used.
[[gnu::hot]] float end_scope(const Scope& scope, uint8_t flags) noexcept;
// Whether the two would call the driver or torch's allocator, and so may wait for another thread or for a stream.
[[gnu::hot]] bool may_wait(const ScopeRequest& begin) noexcept;
[[gnu::hot]] bool may_wait(const Scope& end) noexcept;
void mark(uint32_t name, std::string_view args) noexcept;

// Called at the edges of stage scopes with the recording, the scope's id and the edge: the torch layer samples memory.
// Answers with the share of the device's memory that is in use, 0 when it cannot tell.
using MemorySampler = float (*)(Recording* recording, uint32_t scope, SampleEdge edge) noexcept;
void set_memory_sampler(MemorySampler sampler) noexcept;
float sample_memory(Recording* recording, uint32_t scope, SampleEdge edge) noexcept;
// For tests: from now on no sample is taken and this is the answer; a negative share ends that.
void inject_memory_use(float share) noexcept;

// Called where a state snapshot may be taken (no lock held) after allocator events were lost.
using StateSnapshot = void (*)(Recording* recording, StateReason reason) noexcept;
void set_state_snapshot(StateSnapshot snapshot) noexcept;
void snapshot_state(Recording* recording, StateReason reason) noexcept;
inline void resync_if_wanted(Recording* recording) noexcept {
  if (__builtin_expect(recording->wants_resync(), 0) && recording->take_resync()) {
    snapshot_state(recording, StateReason::kResync);
  }
}

}  // namespace wanhook
