#include <c10/cuda/CUDAAllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "core/clock.h"
#include "core/hook_profile.h"
#include "core/recorder.h"
#include "device/scopes.h"
#include "hooks/allocator_state.h"
#include "hooks/memory_hook.h"
#include "hooks/streams.h"

namespace wanhook {
namespace {

namespace caching = c10::cuda::CUDACachingAllocator;

constexpr int kMaxDevices = 64;

// Written under the device's allocator lock, but for end_folding(). `sequence` is stored last, with release order: who
// reads a number sees the last_free of that event.
struct alignas(64) DeviceEvents {
  std::atomic<uint64_t> sequence{0};
  std::atomic<AllocatorRecord*> last_free{nullptr};  // the last event, if it was a FREE_REQUESTED
  Recording* recording = nullptr;                    // that last_free belongs to
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<AllocatorRecord*>::is_always_lock_free);

DeviceEvents device_events[kMaxDevices];
std::atomic<bool> attached{false};

AllocatorAction translate(caching::TraceEntry::Action action) noexcept {
  switch (action) {
    case caching::TraceEntry::ALLOC:
      return AllocatorAction::kAlloc;
    case caching::TraceEntry::FREE_REQUESTED:
      return AllocatorAction::kFreeRequested;
    case caching::TraceEntry::FREE_COMPLETED:
      return AllocatorAction::kFreeCompleted;
    case caching::TraceEntry::SEGMENT_ALLOC:
      return AllocatorAction::kSegmentAlloc;
    case caching::TraceEntry::SEGMENT_FREE:
      return AllocatorAction::kSegmentFree;
    case caching::TraceEntry::SEGMENT_MAP:
      return AllocatorAction::kSegmentMap;
    case caching::TraceEntry::SEGMENT_UNMAP:
      return AllocatorAction::kSegmentUnmap;
    case caching::TraceEntry::SNAPSHOT:
      return AllocatorAction::kSnapshot;
    case caching::TraceEntry::OOM:
      return AllocatorAction::kOom;
    default:
      return AllocatorAction::kUnknown;  // later versions of torch have more
  }
}

uint64_t tick_of(const caching::TraceEntry& entry) noexcept {
#if defined(__x86_64__)
  return static_cast<uint64_t>(entry.time_.approx_t_);
#else
  (void)entry;
  return tick_now();
#endif
}

// A FREE_REQUESTED that is completed by the very next event of its device is one record, not two.
bool fold_into_last_free(DeviceEvents& events, Recording* recording, const caching::TraceEntry& entry) noexcept {
  AllocatorRecord* last = events.last_free.load(std::memory_order_relaxed);
  if (last == nullptr || events.recording != recording || last->address != entry.addr_) return false;
  const uint64_t after = tick_of(entry) - last->tick;
  if (after > UINT32_MAX) return false;
  last->completed_after = static_cast<uint32_t>(after);
  __atomic_store_n(&last->flags, static_cast<uint8_t>(kFreeFolded), __ATOMIC_RELEASE);
  events.last_free.store(nullptr, std::memory_order_relaxed);
  events.sequence.store(events.sequence.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  return true;
}

[[gnu::hot]] void on_trace_entry(const caching::TraceEntry& entry) noexcept {
  Recording* recording = Recorder::active();
  if (recording == nullptr || WANHOOK_LEFT_OUT(kNoAllocator)) return;
  WANHOOK_TIME_HOOK(HookPart::kAllocatorEntry);
  const AllocatorAction action = translate(entry.action_);
  // Some versions give every SNAPSHOT entry device 0, whatever lock is held: only those of our own snapshot have a
  // place.
  const bool snapshot = __builtin_expect(action == AllocatorAction::kSnapshot, 0);
  const int device = snapshot ? next_snapshot_device() : entry.device_;
  if (device < 0 || device >= kMaxDevices) return;
  DeviceEvents& events = device_events[device];
  if (action == AllocatorAction::kFreeCompleted && fold_into_last_free(events, recording, entry)) return;

  const uint64_t sequence = events.sequence.load(std::memory_order_relaxed) + 1;
  ThreadState& state = this_thread();
  const uint32_t scope = state.scope_in(recording);
  AllocatorRecord* place = recording->append_made<AllocatorRecord>(state, [&](AllocatorRecord& record) noexcept {
    record.kind = static_cast<uint8_t>(Kind::kAllocator);
    record.action = static_cast<uint8_t>(action);
    record.device = static_cast<int8_t>(device);
    record.scope = scope;
    record.tick = tick_of(entry);
    record.sequence = sequence;
    record.address = entry.addr_;
    record.size = entry.size_;
    record.stream = reinterpret_cast<uint64_t>(entry.stream_);
    record.pool = pool_id_of(entry);
  });
  if (__builtin_expect(place == nullptr, 0)) recording->allocator_event_lost();
  if (__builtin_expect(action == AllocatorAction::kSnapshot, 0)) note_snapshot_sequence(device, sequence);
  events.last_free.store(action == AllocatorAction::kFreeRequested ? place : nullptr, std::memory_order_relaxed);
  events.recording = recording;
  events.sequence.store(sequence, std::memory_order_release);
}

}  // namespace

uint64_t last_cuda_event(int device) noexcept { return device_events[device].sequence.load(std::memory_order_acquire); }

uint64_t end_folding(int device) noexcept {
  const uint64_t sequence = last_cuda_event(device);
  device_events[device].last_free.store(nullptr, std::memory_order_relaxed);
  return sequence;
}

void attach_cuda_memory() {
  if (attached.load()) return;
  caching::CUDAAllocator* allocator = caching::get();
  if (allocator == nullptr || !allocator->initialized()) {
    throw std::runtime_error("the CUDA caching allocator is not initialised yet: call torch.cuda.init() first");
  }
  provide_current_stream();
  set_memory_sampler(&sample_cuda_memory);
  set_state_snapshot(&write_cuda_state);
  if (allocator->name() != "native") {
    throw std::runtime_error("allocator events are not recorded: the allocator in use is '" + allocator->name() +
                             "', only torch's native caching allocator can be traced (leave backend: out of "
                             "PYTORCH_CUDA_ALLOC_CONF)");
  }
  allocator->attachAllocatorTraceTracker([](const caching::TraceEntry& entry) { on_trace_entry(entry); });
  attached.store(true);
}

bool cuda_memory_attached() noexcept { return attached.load(); }

std::string cuda_allocator_settings() {
#if __has_include(<c10/core/AllocatorConfig.h>)
  return c10::CachingAllocator::getAllocatorSettings();
#else
  return caching::CUDAAllocatorConfig::last_allocator_settings();
#endif
}

}  // namespace wanhook
