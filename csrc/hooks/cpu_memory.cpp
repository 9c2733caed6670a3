#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>

#include "core/clock.h"
#include "core/recorder.h"
#include "device/scopes.h"
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
};
Counts counts;

[[gnu::hot]] void record(AllocatorAction action, void* address, size_t bytes) noexcept {
  Recording* recording = Recorder::active();
  if (recording == nullptr) return;
  const uint64_t sequence = counts.sequence.fetch_add(1, std::memory_order_relaxed) + 1;
  const uint32_t scope = this_thread().scope;
  const AllocatorRecord* place = recording->append_made<AllocatorRecord>([&](AllocatorRecord& entry) noexcept {
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
}

// Counted and numbered before the memory goes back: its address may be handed out again right after.
[[gnu::hot]] void free_block(void* address) {
  counts.frees.fetch_add(1, std::memory_order_relaxed);
  record(AllocatorAction::kFreeRequested, address, 0);
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
    counts.allocations.fetch_add(1, std::memory_order_relaxed);
    record(AllocatorAction::kAlloc, block.get(), bytes);
    void* address = block.release_context();
    return {address, address, &free_block, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }

  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    wrapped.load(std::memory_order_relaxed)->copy_data(destination, source, bytes);
  }
};

// The twin's own counters, so that a reader can prove that no event is missing: its blocks carry no size when they come
// back, so it knows how many are out and not how many bytes.
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
}

bool cpu_memory_attached() noexcept { return wrapped.load() != nullptr; }

CpuMemoryTotals cpu_memory_totals() noexcept {
  return {counts.allocations.load(std::memory_order_relaxed), counts.frees.load(std::memory_order_relaxed)};
}

}  // namespace wanhook
