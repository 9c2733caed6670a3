// The part of BlockMap that is about segments and their mapped runs.

#include <algorithm>
#include <iterator>

#include "replay/block_map.h"
#include "replay/settings.h"

namespace wanhook::replay {

BlockMap::Runs::iterator BlockMap::run_at(uint64_t address) noexcept {
  auto above = runs_.upper_bound(address);
  if (above == runs_.begin()) return runs_.end();
  --above;
  return address < above->second.end ? above : runs_.end();
}

BlockMap::Runs::iterator BlockMap::run_from(uint64_t address) noexcept {
  const auto holding = run_at(address);
  return holding != runs_.end() ? holding : runs_.lower_bound(address);
}

uint32_t BlockMap::add_segment(const Segment& segment) {
  const uint32_t number = static_cast<uint32_t>(segments_.size());
  segments_.push_back(segment);
  segments_[number].joined = number;
  return number;
}

uint32_t BlockMap::add_run(uint64_t address, uint64_t size, uint32_t number) {
  Segment& segment = segments_[number];
  segment.address = std::min(segment.address, address);
  segment.mapped += size;
  segment.largest = std::max(segment.largest, segment.mapped);
  segment.end = kNoLimit;
  reserved_ += size;
  const uint32_t block = new_block(address, size, number);
  blocks_[block].state = static_cast<uint8_t>(BlockState::kInactive);
  blocks_[block].expandable = segment.expandable;
  index_.set(address, block);
  runs_[address] = {address + size, block, number};
  enter_free(block);
  return block;
}

uint32_t BlockMap::map(uint64_t address, uint64_t size, const Segment& segment) {
  const uint32_t block = add_run(address, size, add_segment(segment));
  const auto run = runs_.find(address);
  const auto above = std::next(run);
  if (above != runs_.end() && above->first == run->second.end && are_one(above->second.segment, run->second.segment)) {
    link(block, find(above->first));
    join(above->second.segment, run->second.segment);
    run->second = above->second;
    runs_.erase(above);
  }
  const auto below = run == runs_.begin() ? run : std::prev(run);
  if (below->second.end == address && are_one(below->second.segment, run->second.segment)) {
    link(below->second.tail, block);
    join(below->second.segment, run->second.segment);
    below->second = run->second;
    runs_.erase(run);
  }
  // From here as a block that is freed between its new neighbours.
  leave_free(block);
  return release(block);
}

bool BlockMap::are_one(uint32_t first, uint32_t second) noexcept {
  const Segment& left = segments_[root(first)];
  const Segment& right = segments_[root(second)];
  return left.expandable && right.expandable && left.stream == right.stream && left.pool == right.pool;
}

void BlockMap::unmap(uint32_t block, uint64_t address, uint64_t size, uint64_t position) {
  const uint64_t end = address + size;
  if (blocks_[block].address < address) cut(block, address);
  if (blocks_[block].end() > end) {
    const uint32_t upper = block;
    block = cut(upper, end);
  }
  const auto run = run_at(address);
  const uint32_t below = blocks_[block].prev;
  const uint32_t above = blocks_[block].next;
  if (above != kNone) runs_[end] = {run->second.end, run->second.tail, run->second.segment};
  shrink(run->second.segment, size, position);
  if (below != kNone) {
    run->second.end = address;
    run->second.tail = below;
    blocks_[below].next = kNone;
  } else {
    runs_.erase(run);
  }
  if (above != kNone) blocks_[above].prev = kNone;
  leave_free(block);
  index_.erase(address);
  forget(block);
}

void BlockMap::drop(Runs::iterator run, uint64_t position) {
  shrink(run->second.segment, run->second.end - run->first, position);
  for (uint32_t block = find(run->first); block != kNone;) {
    const uint32_t next = blocks_[block].next;
    uncount_split(block);
    if (blocks_[block].is_free()) leave_free(block);
    index_.erase(blocks_[block].address);
    forget(block);
    block = next;
  }
  runs_.erase(run);
}

void BlockMap::clear(uint64_t position) {
  while (!runs_.empty()) drop(runs_.begin(), position);
}

uint32_t BlockMap::root(uint32_t segment) noexcept {
  while (segments_[segment].joined != segment) {
    segments_[segment].joined = segments_[segments_[segment].joined].joined;
    segment = segments_[segment].joined;
  }
  return segment;
}

// Two pieces of address space turn out to be one segment: the older one.
void BlockMap::join(uint32_t first, uint32_t second) {
  uint32_t kept = root(first);
  uint32_t given = root(second);
  if (kept == given) return;
  if (given < kept) std::swap(kept, given);
  Segment& whole = segments_[kept];
  const Segment& part = segments_[given];
  whole.address = std::min(whole.address, part.address);
  whole.mapped += part.mapped;
  whole.largest = std::max({whole.largest, part.largest, whole.mapped});
  if (!whole.kind_known && part.kind_known) {
    whole.kind = part.kind;
    whole.kind_known = true;
  }
  segments_[given].joined = kept;
}

void BlockMap::shrink(uint32_t segment, uint64_t bytes, uint64_t position) noexcept {
  Segment& found = segments_[root(segment)];
  found.mapped -= bytes;
  reserved_ -= bytes;
  if (found.mapped == 0) found.end = position;
}

}  // namespace wanhook::replay
