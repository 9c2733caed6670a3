#include "replay/block_map.h"

#include <algorithm>

#include "replay/settings.h"

namespace wanhook::replay {

uint32_t BlockMap::take(uint32_t block, uint64_t size) {
  uncount_split(block);
  if (size == blocks_[block].size) {
    leave_free(block);
    blocks_[block].state = static_cast<uint8_t>(BlockState::kAllocated);
    return block;
  }
  const uint32_t part = new_block(blocks_[block].address, size, blocks_[block].segment);
  Block& rest = blocks_[block];
  blocks_[part].expandable = rest.expandable;
  blocks_[part].state = static_cast<uint8_t>(BlockState::kAllocated);
  link(rest.prev, part);
  link(part, block);
  rest.address += size;
  rest.size -= size;
  index_.set(blocks_[part].address, part);
  index_.set(rest.address, block);
  free_resized(block);
  count_split(block);
  return part;
}

uint32_t BlockMap::release(uint32_t block) {
  blocks_[block].state = static_cast<uint8_t>(BlockState::kInactive);
  const uint32_t above = blocks_[block].next;
  uint32_t whole = block;
  if (above != kNone && blocks_[above].is_free()) {
    uncount_split(above);
    whole = merge_below(above);
  }
  const uint32_t below = blocks_[whole].prev;
  if (below != kNone && blocks_[below].is_free()) {
    uncount_split(below);
    leave_free(below);
    merge_below(whole);
  }
  whole == block ? enter_free(whole) : free_resized(whole);
  count_split(whole);
  return whole;
}

uint32_t BlockMap::cut(uint32_t block, uint64_t address) {
  uncount_split(block);
  const uint32_t lower = new_block(blocks_[block].address, address - blocks_[block].address, blocks_[block].segment);
  Block& upper = blocks_[block];
  blocks_[lower].expandable = upper.expandable;
  blocks_[lower].state = upper.state;
  link(upper.prev, lower);
  link(lower, block);
  upper.address = address;
  upper.size -= blocks_[lower].size;
  index_.set(blocks_[lower].address, lower);
  index_.set(address, block);
  if (upper.is_free()) {
    free_resized(block);
    enter_free(lower);
    count_split(block);
    count_split(lower);
  }
  return lower;
}

// The block swallows the one below it, which must have left the free blocks.
uint32_t BlockMap::merge_below(uint32_t block) {
  const uint32_t below = blocks_[block].prev;
  index_.erase(blocks_[block].address);
  blocks_[block].address = blocks_[below].address;
  blocks_[block].size += blocks_[below].size;
  index_.set(blocks_[block].address, block);
  link(blocks_[below].prev, block);
  forget(below);
  return block;
}

void BlockMap::link(uint32_t below, uint32_t above) noexcept {
  if (below != kNone) blocks_[below].next = above;
  if (above != kNone) blocks_[above].prev = below;
}

uint32_t BlockMap::new_block(uint64_t address, uint64_t size, uint32_t segment) {
  uint32_t block = static_cast<uint32_t>(blocks_.size());
  if (unused_.empty()) {
    blocks_.emplace_back();
  } else {
    block = unused_.back();
    unused_.pop_back();
    blocks_[block] = Block();
  }
  blocks_[block].address = address;
  blocks_[block].size = size;
  blocks_[block].segment = segment;
  return block;
}

void BlockMap::forget(uint32_t block) noexcept {
  blocks_[block].state = 0;
  unused_.push_back(block);
}

void BlockMap::enter_free(uint32_t block) {
  if (keep_largest_free_) heap_.insert(block);
  place_wide(block);
}

void BlockMap::leave_free(uint32_t block) {
  if (keep_largest_free_) heap_.erase(block);
  if (blocks_[block].wide) wide_.erase(block);
  blocks_[block].wide = false;
}

void BlockMap::free_resized(uint32_t block) {
  if (keep_largest_free_) heap_.update(block);
  place_wide(block);
}

// The order of the wide blocks bears a block that grows or shrinks where it is: its neighbours are not free.
void BlockMap::place_wide(uint32_t block) {
  Block& found = blocks_[block];
  const bool wide = found.expandable && found.size >= kSmallSegment;
  if (wide == found.wide) return;
  wide ? (void)wide_.insert(block) : (void)wide_.erase(block);
  found.wide = wide;
}

uint32_t BlockMap::wide_free_at(uint64_t address) const noexcept {
  auto above = wide_.upper_bound(Address{address});
  if (above == wide_.begin()) return kNone;
  const uint32_t block = *--above;
  return address < blocks_[block].end() ? block : kNone;
}

uint32_t BlockMap::add_lone(uint64_t address, uint64_t size) {
  const uint32_t block = new_block(address, size, 0);
  blocks_[block].state = static_cast<uint8_t>(BlockState::kAllocated);
  index_.set(address, block);
  return block;
}

void BlockMap::remove_lone(uint32_t block) {
  index_.erase(blocks_[block].address);
  forget(block);
}

std::vector<uint32_t> BlockMap::lone_blocks() const {
  std::vector<uint32_t> found;
  for (uint32_t block = 1; block < blocks_.size(); ++block) {
    // Blocks of the device are in a segment, if only in one that stands for them.
    if (blocks_[block].is_active() && blocks_[block].segment == 0) found.push_back(block);
  }
  std::sort(found.begin(), found.end(), ByAddress{&blocks_});
  return found;
}

}  // namespace wanhook::replay
