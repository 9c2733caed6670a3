#include "recorded.h"

#include <cstdio>
#include <stdexcept>

namespace wanhook::test {
namespace {

namespace caching = c10::cuda::CUDACachingAllocator;

uint32_t number_of(const c10::MempoolId_t& pool) {
  if (pool.first != 0) return static_cast<uint32_t>(pool.first);
  return pool.second == 0 ? 0 : 0x80000000u | static_cast<uint32_t>(pool.second);
}

AllocatorAction translate(caching::TraceEntry::Action action) {
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
      return AllocatorAction::kUnknown;
  }
}

template <class Row>
void write_rows(const std::string& path, const std::vector<Row>& rows) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) throw std::runtime_error("cannot write " + path);
  std::fwrite(rows.data(), sizeof(Row), rows.size(), file);
  std::fclose(file);
}

}  // namespace

void Recorded::on_entry(const caching::TraceEntry& entry) {
  const AllocatorAction action = translate(entry.action_);
  ++sequence_;
  // As the recorder folds: a completion right behind the request of the same block.
  if (action == AllocatorAction::kFreeCompleted && last_is_free_ && events_.back().address == entry.addr_) {
    events_.back().flags = kFreeFolded;
    last_is_free_ = false;
    return;
  }
  AllocatorRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kAllocator);
  record.action = static_cast<uint8_t>(action);
  record.device = static_cast<int8_t>(entry.device_);
  record.scope = scope_;
  record.sequence = sequence_;
  record.address = entry.addr_;
  record.size = entry.size_;
  record.stream = reinterpret_cast<uint64_t>(entry.stream_);
  record.pool = number_of(entry.mempool_);
  events_.push_back(record);
  last_is_free_ = action == AllocatorAction::kFreeRequested;
  out_of_memory_ += action == AllocatorAction::kOom;
  deferred_ += action == AllocatorAction::kFreeCompleted;
}

void Recorded::probe() {
  const auto stats = caching::getDeviceStats(0);
  const c10::CachingAllocator::Stat* found[5] = {&stats.requested_bytes[0], &stats.allocated_bytes[0],
                                                 &stats.active_bytes[0], &stats.reserved_bytes[0],
                                                 &stats.inactive_split_bytes[0]};
  Probe row{};
  row.sequence = sequence_;
  row.peaks_since = peaks_since_;
  for (int each = 0; each < 5; ++each) {
    row.current[each] = static_cast<uint64_t>(found[each]->current);
    row.peak[each] = static_cast<uint64_t>(found[each]->peak);
  }
  probes_.push_back(row);
}

void Recorded::reset_peaks() {
  caching::resetPeakStats(0);
  peaks_since_ = sequence_;
}

void Recorded::snapshot(StateReason reason) {
  const caching::SnapshotInfo info = caching::snapshot({0, 0}, false);
  StateBeginRecord begin{};
  begin.kind = static_cast<uint8_t>(Kind::kStateBegin);
  begin.reason = static_cast<uint8_t>(reason);
  begin.snapshot = static_cast<uint32_t>(states_.size() + 1);
  begin.sequence = sequence_;  // of its own SNAPSHOT entry
  begin.segments = static_cast<uint32_t>(info.segments.size());
  for (const caching::SegmentInfo& segment : info.segments) begin.blocks += write_segment(segment, begin.snapshot);
  states_.push_back(begin);
}

uint32_t Recorded::write_segment(const caching::SegmentInfo& segment, uint32_t snapshot) {
  SegmentStateRecord row{};
  row.kind = static_cast<uint8_t>(Kind::kSegmentState);
  row.flags =
      static_cast<uint8_t>((segment.is_large ? kSegmentLarge : 0) | (segment.is_expandable ? kSegmentExpandable : 0));
  row.snapshot = snapshot;
  row.address = segment.address;
  row.total = segment.total_size;
  row.allocated = segment.allocated_size;
  row.active = segment.active_size;
  row.requested = segment.requested_size;
  row.stream = reinterpret_cast<uint64_t>(segment.stream);
  row.pool = number_of(segment.owner_private_pool_id);
  row.blocks = static_cast<uint32_t>(segment.blocks.size());
  segments_.push_back(row);
  uint64_t address = segment.address;
  for (const caching::BlockInfo& block : segment.blocks) {
    BlockStateRecord block_row{};
    block_row.kind = static_cast<uint8_t>(Kind::kBlockState);
    block_row.state = static_cast<uint8_t>(block.allocated ? BlockState::kAllocated
                                           : block.active  ? BlockState::kPendingFree
                                                           : BlockState::kInactive);
    block_row.snapshot = snapshot;
    block_row.address = address;
    block_row.size = block.size;
    block_row.requested = block.requested_size;
    block_row.segment = segment.address;
    blocks_.push_back(block_row);
    address += block.size;
  }
  return static_cast<uint32_t>(segment.blocks.size());
}

void Recorded::write(const std::string& directory) const {
  write_rows(directory + "/events", events_);
  write_rows(directory + "/probes", probes_);
  write_rows(directory + "/states", states_);
  write_rows(directory + "/segments", segments_);
  write_rows(directory + "/blocks", blocks_);
}

}  // namespace wanhook::test
