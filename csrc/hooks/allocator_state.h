// State snapshots and counters of torch's CUDA caching allocator, written as records. CUDA builds only.
#pragma once

#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdint>
#include <type_traits>

#include "core/recording.h"

namespace wanhook {

// The device whose lock torch holds during the SNAPSHOT callback that comes next on this thread; -1 when the snapshot
// is not one of ours. torch visits its devices in order and calls back once for each.
int next_snapshot_device() noexcept;
void note_snapshot_sequence(int device, uint64_t sequence) noexcept;

// Number of the last recorded event of a device, 0 before the first; from any thread.
uint64_t last_cuda_event(int device) noexcept;
// The same, and a free that is pending then gets a FREE_COMPLETED of its own: folded into one record, the two would
// leave no place between them, at which the counters are about to be read.
uint64_t end_folding(int device) noexcept;

// Takes the allocator's locks: never from a hook of the allocator, never on the resolver thread.
void write_cuda_state(Recording* recording, StateReason reason) noexcept;
// The share of the device's memory that is in use, by whomever; 0 when the driver does not say.
float sample_cuda_memory(Recording* recording, uint32_t scope, SampleEdge edge) noexcept;

// (n, 0): the private pool of a graph capture; (0, n): a MemPool.
template <class PoolId>
uint32_t encode_pool(const PoolId& pool) noexcept {
  if (pool.first != 0) return static_cast<uint32_t>(pool.first);
  return pool.second == 0 ? 0 : 0x80000000u | static_cast<uint32_t>(pool.second);
}

// TraceEntry tells its pool only in some versions of torch.
template <class Entry, class = void>
struct HasPool : std::false_type {};
template <class Entry>
struct HasPool<Entry, std::void_t<decltype(std::declval<Entry>().mempool_)>> : std::true_type {};

template <class Entry>
uint32_t pool_id_of(const Entry& entry) noexcept {
  if constexpr (HasPool<Entry>::value) {
    return encode_pool(entry.mempool_);
  } else {
    return 0;
  }
}

}  // namespace wanhook
