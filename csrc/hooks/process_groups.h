// Process groups as the collective hook sees them: an index, the backend behind each device, and call counters.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <atomic>
#include <cstdint>

namespace wanhook {

struct KnownGroup {
  uint16_t index = 0;                   // 0: more groups than the format can number
  bool cuda_is_nccl = false;            // CUDA tensors of this group go through NCCL
  std::atomic<uint32_t> collectives{0};
  std::atomic<uint32_t> point_to_point{0};
};

// Never null, never freed. The first call for a group takes a lock; later ones do not.
KnownGroup* find_group(const c10::intrusive_ptr<c10d::ProcessGroup>& group) noexcept;

}  // namespace wanhook
