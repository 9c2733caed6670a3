#include "device/scopes.h"

#include <atomic>

#include "core/clock.h"
#include "core/hook_profile.h"
#include "core/recorder.h"
#include "device/span_timer.h"
#include "device/step_check.h"

namespace wanhook {
namespace {

std::atomic<const StreamProvider*> provider_of_streams{nullptr};
std::atomic<MemorySampler> memory_sampler{nullptr};
std::atomic<StateSnapshot> state_snapshot{nullptr};
std::atomic<float> injected_use{-1};

bool samples_memory(const Scope& scope) noexcept {
  return scope.level == ScopeLevel::kStage && !scope.captured && scope.verify != ScopeVerify::kMuted;
}

bool takes(const Recording* recording, const ScopeRequest& request) noexcept {
  return recording != nullptr && request.level <= recording->level() && !WANHOOK_LEFT_OUT(kNoScopes);
}

template <class Fill>
bool append_begin(Recording* recording, ThreadState& state, std::string_view args, const Fill& fill) noexcept {
  if (args.empty()) return recording->append_made<ScopeBeginRecord>(state, fill) != nullptr;
  ScopeBeginRecord record{};
  fill(record);
  return recording->append(record, args);
}

}  // namespace

void set_stream_provider(const StreamProvider* provider) noexcept {
  provider_of_streams.store(provider, std::memory_order_release);
}

const StreamProvider* stream_provider() noexcept { return provider_of_streams.load(std::memory_order_acquire); }

void set_memory_sampler(MemorySampler sampler) noexcept { memory_sampler.store(sampler, std::memory_order_release); }

float sample_memory(Recording* recording, uint32_t scope, SampleEdge edge) noexcept {
  const float injected = injected_use.load(std::memory_order_relaxed);
  if (injected >= 0) return injected;
  const MemorySampler sampler = memory_sampler.load(std::memory_order_acquire);
  WANHOOK_TIME_HOOK(HookPart::kMemorySample);
  return sampler == nullptr ? 0 : sampler(recording, scope, edge);
}

void inject_memory_use(float share) noexcept { injected_use.store(share, std::memory_order_relaxed); }

void set_state_snapshot(StateSnapshot snapshot) noexcept { state_snapshot.store(snapshot, std::memory_order_release); }

void snapshot_state(Recording* recording, StateReason reason) noexcept {
  const StateSnapshot snapshot = state_snapshot.load(std::memory_order_acquire);
  if (snapshot != nullptr) snapshot(recording, reason);
}

Scope begin_scope(const ScopeRequest& request) noexcept {
  Scope scope;
  Recording* recording = Recorder::active();
  if (!takes(recording, request)) return scope;
  WANHOOK_TIME_HOOK(HookPart::kScopeBegin);
  ThreadState& state = this_thread();
  Recording::expect_record(state);
  resync_if_wanted(recording);
  const StreamRef stream = current_stream();
  scope.recording = recording;
  scope.id = recording->next_id();
  scope.level = request.level;
  scope.captured = stream.capturing;
  if (request.verify && !scope.captured) scope.verify = step_check::begin(recording);

  const uint64_t tick = tick_now();
  scope.timer = SpanTimer::begin(recording, stream);
  const auto fill = [&](ScopeBeginRecord& record) noexcept {
    record.kind = static_cast<uint8_t>(Kind::kScopeBegin);
    record.level = static_cast<uint8_t>(request.level);
    record.type = static_cast<uint8_t>(request.type);
    record.name = request.name;
    record.id = scope.id;
    record.parent = request.parent_recording == recording ? request.parent : 0;
    record.text_bytes = static_cast<uint32_t>(request.args.size());
    record.tick = tick;
    record.device = static_cast<int8_t>(scope.timer == 0 ? -1 : stream.device);
    record.stream = reinterpret_cast<uint64_t>(stream.stream);
    record.timed = scope.timer != 0;
    record.verify = static_cast<uint8_t>(scope.verify);
  };
  if (!append_begin(recording, state, request.args, fill)) {
    SpanTimer::abandon(scope.timer);
    if (scope.verify != ScopeVerify::kNone) step_check::end(recording, scope.verify);
    return Scope{};
  }
  if (samples_memory(scope)) scope.used = sample_memory(recording, scope.id, SampleEdge::kScopeBegin);
  return scope;
}

float end_scope(const Scope& scope, uint8_t flags) noexcept {
  if (scope.recording == nullptr) return 0;
  // The recording may have been stopped inside this scope: then it stays open in the file, and only the timer is freed.
  if (Recorder::current() != scope.recording) {
    SpanTimer::abandon(scope.timer);
    return 0;
  }
  WANHOOK_TIME_HOOK(HookPart::kScopeEnd);
  ThreadState& state = this_thread();
  Recording::expect_record(state);
  float used = 0;
  if (samples_memory(scope)) used = sample_memory(scope.recording, scope.id, SampleEdge::kScopeEnd);
  SpanTimer::end(scope.timer, SpanOwner::kScope, scope.id);
  scope.recording->append_made<ScopeEndRecord>(state, [&](ScopeEndRecord& record) noexcept {
    record.kind = static_cast<uint8_t>(Kind::kScopeEnd);
    record.flags = flags;
    record.id = scope.id;
    record.tick = tick_now();
  });
  if (scope.verify != ScopeVerify::kNone) step_check::end(scope.recording, scope.verify);
  return used;
}

bool may_wait(const ScopeRequest& begin) noexcept {
  return stream_provider() != nullptr && takes(Recorder::active(), begin);
}

bool may_wait(const Scope& end) noexcept { return stream_provider() != nullptr && end.recording != nullptr; }

void mark(uint32_t name, std::string_view args) noexcept {
  Recording* recording = Recorder::active();
  if (recording == nullptr) return;
  MarkRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kMark);
  record.name = name;
  record.tick = tick_now();
  record.scope = thread_state.scope_in(recording);
  record.text_bytes = static_cast<uint32_t>(args.size());
  recording->append(record, args);
}

}  // namespace wanhook
