// The times of work on a stream of NCCL's own: torch keeps a start and an end event of it, and these are read.
//
// Held are the events, never the Work, which keeps its tensors alive. Waiting for the Work would unstash them, and a
// callback on its Future calls recordStream on each output, which defers frees: neither is done.
#pragma once

#include <cstdint>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace wanhook {

class Recording;

struct NcclWork {
  uint32_t owner;  // id of the collective
  int device;
  uint64_t queue;  // stands for the stream it runs on, which torch does not tell; see nccl_queue()
};

// Works of one group with the same `peer` (-1 unless a lone send or receive) finish in the order of their calls.
constexpr uint64_t nccl_queue(uint16_t group, int32_t peer) noexcept {
  return (uint64_t{1} << 63) | (uint64_t{group} << 32) | static_cast<uint32_t>(peer + 1);
}

// Makes the group's NCCL backend keep timing events for all later works, for the rest of its life; false when this
// version or kind of backend has none that could be read. Not under graph capture.
bool keep_nccl_events(c10d::ProcessGroup& group) noexcept;

// Has the resolver write the span of a work that was just launched. False when the work shows no events.
bool time_nccl_work(Recording* recording, const c10d::Work& work, const NcclWork& about) noexcept;

}  // namespace wanhook
