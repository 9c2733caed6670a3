// Process groups as the collective hook sees them: an index, the backend behind each device, and call counters.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <atomic>
#include <cstdint>

namespace wanhook {

// Whether the works of asynchronous calls show their times (nccl_events.h). It has to be switched on for each group,
// costs each later call of it an event record, and so waits for the first asynchronous call that is recorded.
enum class NcclEvents : uint8_t { kNotAsked, kKept, kNone };

struct KnownGroup {
  uint16_t index = 0;                   // 0: more groups than the format can number
  bool cuda_is_nccl = false;            // CUDA tensors of this group go through NCCL
  std::atomic<uint32_t> collectives{0};
  std::atomic<uint32_t> point_to_point{0};
  std::atomic<uint32_t> coalesced{0};   // groups of calls, not calls
  std::atomic<NcclEvents> nccl_events{NcclEvents::kNotAsked};
};

// Never null, never freed. The first call for a group takes a lock; later ones do not.
KnownGroup* find_group(const c10::intrusive_ptr<c10d::ProcessGroup>& group) noexcept;

// The group, or with null all groups, are gone: whoever comes to the address is another one, however alike.
void forget_group(const c10d::ProcessGroup* group) noexcept;

}  // namespace wanhook
