// What the program writes for the reader: events as the recorder would write them, torch's own counters and snapshots.
#pragma once

#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/record.h"

namespace wanhook::test {

// torch's counters, current and peak, after the event with this number.
struct Probe {
  uint64_t sequence;
  uint64_t peaks_since;  // number of the last event before the peaks were reset
  uint64_t current[5];   // requested, allocated, active, reserved, inactive split
  uint64_t peak[5];
};

class Recorded {
 public:
  // Called by torch under its lock.
  void on_entry(const c10::cuda::CUDACachingAllocator::TraceEntry& entry);
  void probe();
  void reset_peaks();
  void snapshot(StateReason reason);
  void write(const std::string& directory) const;
  void set_scope(uint32_t scope) { scope_ = scope; }
  uint64_t out_of_memory() const { return out_of_memory_; }
  uint64_t deferred() const { return deferred_; }

 private:
  uint32_t write_segment(const c10::cuda::CUDACachingAllocator::SegmentInfo& segment, uint32_t snapshot);  // its blocks

  std::vector<AllocatorRecord> events_;
  std::vector<Probe> probes_;
  std::vector<StateBeginRecord> states_;
  std::vector<SegmentStateRecord> segments_;
  std::vector<BlockStateRecord> blocks_;
  uint64_t sequence_ = 0;
  uint64_t peaks_since_ = 0;
  uint64_t out_of_memory_ = 0;
  uint64_t deferred_ = 0;
  uint32_t scope_ = 0;
  bool last_is_free_ = false;
};

}  // namespace wanhook::test
