// The part of Model that puts contradictions right.

#include <algorithm>
#include <iterator>

#include "replay/model.h"

namespace wanhook::replay {

void Model::note(Kind kind, const Event& event) {
  if (!claimed_) return;
  contradictions_.note({static_cast<int64_t>(position_), static_cast<uint8_t>(kind), event.address, event.size});
  inexact_from_ = std::min(inexact_from_, position_);
}

// A free block that begins at the address of an allocation for which there is none; kNone when that cannot be had.
uint32_t Model::make_room(const Event& event) {
  const auto run = map_.run_at(event.address);
  if (run == map_.runs().end()) {
    note(Kind::kAllocationOutside, event);
    return lone_block(event);
  }
  uint32_t block = map_.find(event.address);
  if (block == kNone) block = block_holding(run, event.address);
  if (block == kNone) {
    note(Kind::kAllocationInside, event);
    return kNone;
  }
  if (map_[block].is_free()) {
    note(Kind::kAllocationInside, event);
    return open_at(block, event);
  }
  note(Kind::kAllocationInUse, event);
  block = complete(block);
  return block == kNone ? lone_block(event) : open_at(block, event);
}

// The free block is cut so that one begins where the event says.
uint32_t Model::open_at(uint32_t block, const Event& event) {
  if (map_[block].address < event.address) map_.cut(block, event.address);
  return block;
}

// Memory of which nothing but this allocation is known; it goes with it.
uint32_t Model::lone_block(const Event& event) {
  uint64_t size = settings_.block_size(event.size);
  const auto above = map_.runs().upper_bound(event.address);
  if (above != map_.runs().end()) size = std::min(size, above->first - event.address);
  Segment segment = segment_like(event, false);
  segment.lone = true;
  return map_.add_run(event.address, size, map_.add_segment(segment));
}

// Walks a run. The steps are rationed: damaged events would make this quadratic.
uint32_t Model::block_holding(BlockMap::Runs::iterator run, uint64_t address) {
  uint32_t block = map_.find(run->first);
  while (block != kNone && map_[block].end() <= address) {
    if (steps_ == 0) return kNone;
    --steps_;
    block = map_[block].next;
  }
  return block;
}

// Frees what an unmapping says is free: the free block that holds its first byte.
uint32_t Model::clear_range(const Event& event) {
  const auto run = map_.run_at(event.address);
  if (run == map_.runs().end()) return kNone;
  uint32_t block = block_holding(run, event.address);
  if (block == kNone || !map_[block].expandable) return kNone;
  const uint64_t end = std::min(event.address + event.size, run->second.end);
  for (;;) {
    if (!map_[block].is_free()) block = complete(block);
    const uint32_t above = map_[block].next;
    if (above == kNone || map_[above].address >= end) break;
    block = above;
  }
  return map_[block].address <= event.address ? block : kNone;
}

bool Model::drop_overlaps(const Event& event) {
  bool found = false;
  for (;; found = true) {
    const auto run = map_.run_from(event.address);
    if (run == map_.runs().end() || run->first >= event.address + event.size) return found;
    drop_run(run);
  }
}

void Model::drop_run(BlockMap::Runs::iterator run) {
  for (uint32_t block = map_.find(run->first); block != kNone; block = map_[block].next) {
    if (map_[block].is_active()) end_life(block, position_ + 1);
  }
  map_.drop(run, position_ + 1);
}

}  // namespace wanhook::replay
