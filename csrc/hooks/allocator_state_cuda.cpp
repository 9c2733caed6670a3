#include "hooks/allocator_state.h"

#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/clock.h"
#include "core/recorder.h"
#include "device/scopes.h"
#include "device/span_timer.h"
#include "hooks/append_state.h"
#include "hooks/memory_hook.h"

namespace wanhook {
namespace {

namespace caching = c10::cuda::CUDACachingAllocator;

constexpr int kMaxDevices = 64;

struct SnapshotInProgress {
  bool active;
  int next_device;
  uint64_t used;    // one bit for each device from which this process ever took memory
  uint64_t sequence[kMaxDevices];
};
__thread SnapshotInProgress snapshot_in_progress;

// Later versions can leave the (possibly huge) trace history out of a snapshot.
template <class Allocator>
auto take_snapshot(Allocator* allocator, int) -> decltype(allocator->snapshot({0, 0}, false)) {
  return allocator->snapshot({0, 0}, false);
}
template <class Allocator>
auto take_snapshot(Allocator* allocator, long) -> decltype(allocator->snapshot()) {
  return allocator->snapshot();
}

uint64_t current_bytes(const c10::CachingAllocator::StatArray& stats) noexcept {
  return static_cast<uint64_t>(stats[0].current);  // 0: the aggregate over both pools
}

// Devices that this rank never used stay out of its file.
uint64_t used_devices() {
  uint64_t used = 0;
  const int devices = std::min<int>(c10::cuda::device_count(), kMaxDevices);
  for (int device = 0; device < devices; ++device) {
    // Bytes, not segments: torch does not count expandable ones. Peak and sum, because a program may reset either.
    const auto reserved = caching::getDeviceStats(static_cast<c10::DeviceIndex>(device)).reserved_bytes[0];
    if (reserved.current > 0 || reserved.peak > 0 || reserved.allocated > 0) used |= uint64_t{1} << device;
  }
  return used;
}

BlockStateRecord describe(const caching::BlockInfo& block, uint64_t address) noexcept {
  BlockStateRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kBlockState);
  record.state = static_cast<uint8_t>(block.allocated ? BlockState::kAllocated
                                      : block.active  ? BlockState::kPendingFree
                                                      : BlockState::kInactive);
  record.address = address;
  record.size = block.size;
  record.requested = block.requested_size;
  return record;
}

SegmentStateRecord describe(const caching::SegmentInfo& segment) noexcept {
  SegmentStateRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kSegmentState);
  record.flags =
      static_cast<uint8_t>((segment.is_large ? kSegmentLarge : 0) | (segment.is_expandable ? kSegmentExpandable : 0));
  record.device = static_cast<int8_t>(segment.device);
  record.address = segment.address;
  record.total = segment.total_size;
  record.allocated = segment.allocated_size;
  record.active = segment.active_size;
  record.requested = segment.requested_size;
  record.stream = reinterpret_cast<uint64_t>(segment.stream);
  record.pool = encode_pool(segment.owner_private_pool_id);
  record.blocks = static_cast<uint32_t>(segment.blocks.size());
  return record;
}

bool write_segment(Recording* recording, const caching::SegmentInfo& segment, uint32_t snapshot,
                   StateReason reason) noexcept {
  SegmentStateRecord record = describe(segment);
  record.snapshot = snapshot;
  bool written = append_state(recording, record, reason);
  uint64_t address = segment.address;
  for (const caching::BlockInfo& block : segment.blocks) {
    BlockStateRecord block_record = describe(block, address);
    block_record.device = record.device;
    block_record.snapshot = snapshot;
    block_record.segment = segment.address;
    written = written && append_state(recording, block_record, reason);
    address += block.size;
  }
  return written;
}

StateBeginRecord summarise(const caching::SnapshotInfo& info, int device) noexcept {
  StateBeginRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kStateBegin);
  record.device = static_cast<int8_t>(device);
  record.sequence = snapshot_in_progress.sequence[device];
  for (const caching::SegmentInfo& segment : info.segments) {
    if (segment.device != device) continue;
    record.allocated += segment.allocated_size;
    record.reserved_bytes += segment.total_size;
    record.active += segment.active_size;
    record.requested += segment.requested_size;
    ++record.segments;
    record.blocks += static_cast<uint32_t>(segment.blocks.size());
  }
  return record;
}

// A snapshot without its StateEnd is incomplete and readers leave it out.
void write_device_state(Recording* recording, const caching::SnapshotInfo& info, int device, StateReason reason,
                        uint64_t tick) noexcept {
  StateBeginRecord begin = summarise(info, device);
  begin.reason = static_cast<uint8_t>(reason);
  begin.snapshot = recording->next_snapshot();
  begin.tick = tick;
  bool written = append_state(recording, begin, reason);
  for (const caching::SegmentInfo& segment : info.segments) {
    if (segment.device == device) written = written && write_segment(recording, segment, begin.snapshot, reason);
  }
  if (!written) {
    recording->file().add_dropped(1);
    recording->allocator_event_lost();
    return;
  }
  StateEndRecord end{};
  end.kind = static_cast<uint8_t>(Kind::kStateEnd);
  end.device = static_cast<int8_t>(device);
  end.snapshot = begin.snapshot;
  end.tick = tick_now();
  append_state(recording, end, reason);
}

// The driver takes 10 to 60 µs to answer in a program at work, many times what the rest of a sample does. Asked every
// 20 ms, that was a sixth of what all hooks took of a launch-bound step.
constexpr int64_t kAnswerLasts = 250'000'000;  // ns, while torch itself takes and gives back nothing

struct DriverAnswer {
  int device;
  int64_t asked;
  uint64_t reserved_bytes;  // torch's, then
  uint64_t device_free;
  uint64_t device_total;
};
__thread DriverAnswer last_answer;

// What the driver says may be asked while another thread captures a graph only in the relaxed mode.
void ask_driver(int device, MemorySampleRecord* record) noexcept {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  int current = -1;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  bool ok = cudaGetDevice(&current) == cudaSuccess;
  if (ok && current != device) return;
  ok = ok && cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess;
  if (ok && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
    record->device_free = free_bytes;
    record->device_total = total_bytes;
    ok = cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess;
  } else {
    if (ok) cudaThreadExchangeStreamCaptureMode(&mode);
    ok = false;
  }
  if (!ok) cudaGetLastError();  // ours: torch raises whatever it finds at its next cudaMalloc
}

void add_device_memory(int device, MemorySampleRecord* record) noexcept {
  const int64_t now = read_clock(CLOCK_MONOTONIC);
  DriverAnswer& last = last_answer;
  const bool lasts = last.device_total != 0 && last.device == device && now - last.asked < kAnswerLasts;
  if (lasts && last.reserved_bytes == record->reserved_bytes) {
    record->device_free = last.device_free;
    record->device_total = last.device_total;
    return;
  }
  ask_driver(device, record);
  last = {device, now, record->reserved_bytes, record->device_free, record->device_total};
}

struct Reading {
  c10::CachingDeviceAllocator::DeviceStats stats;
  uint64_t sequence;  // of the event after which they were read; 0 when others' events came in between each time
};

// torch reads its counters under the allocator's lock, and events are numbered under it. A number read before cannot
// be one given after that, a number read behind cannot be one from before it, so two equal ones are the place. The
// gate is asked last: events that a pause hid have no number.
Reading read_counters(const Recording* recording, int device) {
  Reading reading{};
  for (int attempt = 0; attempt < 3 && reading.sequence == 0; ++attempt) {
    const uint64_t before = end_folding(device);
    reading.stats = caching::getDeviceStats(static_cast<c10::DeviceIndex>(device));
    if (last_cuda_event(device) == before && Recorder::active() == recording) reading.sequence = before;
  }
  return reading;
}

AllocatorSampleRecord describe(const c10::CachingDeviceAllocator::DeviceStats& stats) noexcept {
  AllocatorSampleRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kAllocatorSample);
  record.inactive_split = current_bytes(stats.inactive_split_bytes);
  record.retries = static_cast<uint64_t>(stats.num_alloc_retries);
  record.ooms = static_cast<uint64_t>(stats.num_ooms);
  record.sync_all_streams = static_cast<uint64_t>(stats.num_sync_all_streams);
  record.device_allocs = static_cast<uint64_t>(stats.num_device_alloc);
  record.device_frees = static_cast<uint64_t>(stats.num_device_free);
  return record;
}

}  // namespace

int next_snapshot_device() noexcept {
  if (!snapshot_in_progress.active) return -1;
  const int device = snapshot_in_progress.next_device++;
  return device < kMaxDevices && (snapshot_in_progress.used >> device & 1) != 0 ? device : -1;
}

void note_snapshot_sequence(int device, uint64_t sequence) noexcept {
  snapshot_in_progress.sequence[device] = sequence;
}

void write_cuda_state(Recording* recording, StateReason reason) noexcept {
  if (!cuda_memory_attached()) return;
  snapshot_in_progress = SnapshotInProgress{};
  try {
    snapshot_in_progress.used = used_devices();
    snapshot_in_progress.active = true;
    const uint64_t tick = tick_now();
    const caching::SnapshotInfo info = take_snapshot(caching::get(), 0);
    snapshot_in_progress.active = false;
    for (int device = 0; device < kMaxDevices; ++device) {
      if ((snapshot_in_progress.used >> device & 1) != 0) write_device_state(recording, info, device, reason, tick);
    }
  } catch (...) {
    snapshot_in_progress.active = false;
    recording->allocator_event_lost();
  }
}

float sample_cuda_memory(Recording* recording, uint32_t scope, SampleEdge edge) noexcept {
  try {
    const StreamRef stream = current_stream();
    if (stream.device < 0 || stream.device >= kMaxDevices) return 0;
    const auto [stats, sequence] = read_counters(recording, stream.device);
    MemorySampleRecord record{};
    record.kind = static_cast<uint8_t>(Kind::kMemorySample);
    record.edge = static_cast<uint8_t>(edge);
    record.device = static_cast<int8_t>(stream.device);
    record.scope = scope;
    record.tick = tick_now();
    record.allocated = current_bytes(stats.allocated_bytes);
    record.reserved_bytes = current_bytes(stats.reserved_bytes);
    record.active = current_bytes(stats.active_bytes);
    record.requested = current_bytes(stats.requested_bytes);
    add_device_memory(stream.device, &record);
    recording->append(record);
    AllocatorSampleRecord counters = describe(stats);
    counters.edge = record.edge;
    counters.device = record.device;
    counters.sequence = static_cast<uint32_t>(sequence);
    counters.tick = record.tick;
    recording->append(counters);
    if (record.device_total == 0) return 0;
    return 1 - static_cast<float>(record.device_free) / static_cast<float>(record.device_total);
  } catch (...) {
    return 0;  // a device without an allocator state yet has nothing to sample
  }
}

}  // namespace wanhook
