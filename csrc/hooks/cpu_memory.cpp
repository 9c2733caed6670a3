#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <sched.h>

#include <atomic>
#include <vector>

#include "core/clock.h"
#include "core/recorder.h"
#include "device/scopes.h"
#include "hooks/append_state.h"
#include "hooks/live_blocks.h"
#include "hooks/memory_hook.h"

namespace wanhook {
namespace {

std::atomic<c10::Allocator*> wrapped{nullptr};
std::atomic<c10::DeleterFnPtr> wrapped_delete{nullptr};
// All in one cache line.
struct alignas(64) Counts {
  std::atomic<uint64_t> allocations{0};
  std::atomic<uint64_t> frees{0};
  std::atomic<uint64_t> sequence{0};  // of the last record
  // Allocations and frees whose event is written and that are in live_blocks, or out of it: as many as were counted
  // above while none is under way.
  std::atomic<uint64_t> settled{0};
};
Counts counts;
LiveBlocks live_blocks;

// The event's number; 0 when nothing is recorded.
[[gnu::hot]] uint64_t record(AllocatorAction action, void* address, size_t bytes) noexcept {
  Recording* recording = Recorder::active();
  if (recording == nullptr) return 0;
  const uint64_t sequence = counts.sequence.fetch_add(1, std::memory_order_relaxed) + 1;
  ThreadState& state = this_thread();
  const uint32_t scope = state.scope_in(recording);
  const AllocatorRecord* place = recording->append_made<AllocatorRecord>(state, [&](AllocatorRecord& entry) noexcept {
    entry.kind = static_cast<uint8_t>(Kind::kAllocator);
    entry.action = static_cast<uint8_t>(action);
    entry.device = -1;
    entry.flags = action == AllocatorAction::kFreeRequested ? kFreeFolded : 0;
    entry.scope = scope;
    entry.tick = tick_now();
    entry.sequence = sequence;
    entry.address = reinterpret_cast<uint64_t>(address);
    entry.size = bytes;
  });
  if (place == nullptr) recording->allocator_event_lost();
  return sequence;
}

// Counted and numbered before the memory goes back: its address may be handed out again right after.
[[gnu::hot]] void free_block(void* address) {
  counts.frees.fetch_add(1);
  live_blocks.remove(reinterpret_cast<uint64_t>(address));
  record(AllocatorAction::kFreeRequested, address, 0);
  counts.settled.fetch_add(1);
  wrapped_delete.load(std::memory_order_relaxed)(address);
}

class RecordingCpuAllocator final : public c10::Allocator {
 public:
  [[gnu::hot]] c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr block = wrapped.load(std::memory_order_relaxed)->allocate(bytes);
    // Only blocks that can be freed by address alone can pass through us; anything else keeps its own deleter.
    if (block.get() == nullptr || block.get_deleter() != wrapped_delete.load(std::memory_order_relaxed) ||
        block.get_context() != block.get()) {
      return block;
    }
    counts.allocations.fetch_add(1);
    live_blocks.add(reinterpret_cast<uint64_t>(block.get()), bytes);
    record(AllocatorAction::kAlloc, block.get(), bytes);
    counts.settled.fetch_add(1);
    void* address = block.release_context();
    return {address, address, &free_block, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }

  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    wrapped.load(std::memory_order_relaxed)->copy_data(destination, source, bytes);
  }
};

// The twin's own counters, so that a reader can prove that no event is missing.
float sample_cpu_memory(Recording* recording, uint32_t, SampleEdge edge) noexcept {
  AllocatorSampleRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kAllocatorSample);
  record.edge = static_cast<uint8_t>(edge);
  record.device = -1;
  record.tick = tick_now();
  record.device_allocs = counts.allocations.load(std::memory_order_relaxed);
  record.device_frees = counts.frees.load(std::memory_order_relaxed);
  recording->append(record);
  return 0;  // a share of the host's memory is not looked at
}

// Between two equal answers but 0 nothing was allocated or freed, and no event of either was written.
uint64_t quiet_at() noexcept {
  const uint64_t done = counts.settled.load();
  return counts.allocations.load() + counts.frees.load() == done ? done + 1 : 0;
}

struct CpuState {
  std::vector<LiveBlock> blocks;
  uint64_t sequence = 0;  // of its SNAPSHOT event; 0: it could not be had
};

// Threads that allocate all the time leave no moment at which the table holds still: then the state stays unknown.
CpuState take_state(Recording* recording, StateReason reason) {
  CpuState state;
  for (int attempt = reason == StateReason::kResync ? 1 : 100; attempt > 0; --attempt, sched_yield()) {
    const uint64_t before = quiet_at();
    if (before == 0) continue;
    state.blocks = live_blocks.all();
    if (state.blocks.size() != counts.allocations.load() - counts.frees.load()) continue;
    if (quiet_at() != before || Recorder::active() != recording) continue;
    const uint64_t sequence = record(AllocatorAction::kSnapshot, nullptr, 0);
    if (quiet_at() != before) continue;  // the event stays, and stands for nothing
    state.sequence = sequence;
    break;
  }
  return state;
}

bool write_blocks(Recording* recording, const CpuState& state, uint32_t snapshot, StateReason reason) noexcept {
  for (const LiveBlock& block : state.blocks) {
    BlockStateRecord record{};
    record.kind = static_cast<uint8_t>(Kind::kBlockState);
    record.state = static_cast<uint8_t>(BlockState::kAllocated);
    record.device = -1;
    record.snapshot = snapshot;
    record.address = block.address;
    record.size = record.requested = block.bytes;
    if (!append_state(recording, record, reason)) return false;
  }
  return true;
}

bool write_state(Recording* recording, const CpuState& state, StateReason reason) noexcept {
  StateBeginRecord begin{};
  begin.kind = static_cast<uint8_t>(Kind::kStateBegin);
  begin.reason = static_cast<uint8_t>(reason);
  begin.device = -1;
  begin.snapshot = recording->next_snapshot();
  begin.tick = tick_now();
  begin.sequence = state.sequence;
  for (const LiveBlock& block : state.blocks) begin.requested += block.bytes;
  begin.allocated = begin.active = begin.requested;
  begin.blocks = static_cast<uint32_t>(state.blocks.size());
  StateEndRecord end{};
  end.kind = static_cast<uint8_t>(Kind::kStateEnd);
  end.device = -1;
  end.snapshot = begin.snapshot;
  bool written = append_state(recording, begin, reason) && write_blocks(recording, state, begin.snapshot, reason);
  end.tick = tick_now();
  written = written && append_state(recording, end, reason);
  if (!written) recording->file().add_dropped(1);
  return written;
}

void write_cpu_state(Recording* recording, StateReason reason) noexcept {
  try {
    const CpuState state = take_state(recording, reason);
    if (state.sequence != 0 && write_state(recording, state, reason)) return;
  } catch (...) {  // no memory for the list
  }
  recording->allocator_event_lost();  // so that a state is written as soon as one can be
}

}  // namespace

void attach_cpu_memory() {
  if (wrapped.load() != nullptr) return;
  c10::Allocator* previous = c10::GetCPUAllocator();
  // Without a raw deleter, frees by address are not possible: leave such an allocator alone.
  if (previous == nullptr || previous->raw_deleter() == nullptr) return;
  wrapped_delete.store(previous->raw_deleter());
  wrapped.store(previous);
  static auto* allocator = new RecordingCpuAllocator();
  c10::SetCPUAllocator(allocator, /*priority=*/100);
  set_memory_sampler(&sample_cpu_memory);
  set_state_snapshot(&write_cpu_state);
}

bool cpu_memory_attached() noexcept { return wrapped.load() != nullptr; }

CpuMemoryTotals cpu_memory_totals() noexcept {
  return {counts.allocations.load(std::memory_order_relaxed), counts.frees.load(std::memory_order_relaxed)};
}

}  // namespace wanhook
