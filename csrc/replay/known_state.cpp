// The part of Model that takes over a known state and tells its own.

#include "replay/known_state.h"

#include <algorithm>
#include <unordered_map>

#include "replay/model.h"

namespace wanhook::replay {
namespace {

struct Survivor {
  uint32_t life;
  uint32_t scope;
};

Event place_of(uint64_t address, uint64_t size) noexcept {
  Event event{};
  event.address = address;
  event.size = size;
  return event;
}

bool is_same(const Segment& before, const Segment& now) noexcept {
  return before.expandable == now.expandable && before.stream == now.stream && before.pool == now.pool && !before.lone;
}

}  // namespace

// What lived before the known state and is in it too, by address.
struct Model::Survivors {
  std::unordered_map<uint64_t, Survivor> blocks;
  std::unordered_map<uint64_t, uint32_t> segments;
};

void Model::restart(const AddressMap& state, uint32_t unknown) {
  position_ = state.position;
  if (options_.host) return restart_on_host(state, unknown);
  const Survivors survivors = end_all_but(state);
  map_.clear(position_);
  requested_ = allocated_ = active_ = 0;
  const BlockRow* row = state.blocks.data();
  const BlockRow* const end = row + state.blocks.size();
  for (const SegmentRow& segment : state.segments) {
    if (row != end && row->address < segment.address) note(Kind::kDamagedSnapshot, place_of(row->address, row->size));
    row = std::find_if(row, end, [&](const BlockRow& each) { return each.address >= segment.address; });
    if (!restore_segment(segment, survivors, unknown)) continue;
    const uint64_t filled = restore_blocks(segment, row, end, survivors, unknown);
    if (filled != segment.address + segment.total) note(Kind::kDamagedSnapshot, place_of(filled, 0));
  }
}

void Model::restart_on_host(const AddressMap& state, uint32_t unknown) {
  Survivors survivors;
  const auto is_below = [](const BlockRow& row, uint64_t address) { return row.address < address; };
  for (const uint32_t block : map_.lone_blocks()) {
    const Block& found = map_[block];
    const auto row = std::lower_bound(state.blocks.begin(), state.blocks.end(), found.address, is_below);
    const bool lives_on = row != state.blocks.end() && row->address == found.address && row->size == found.size;
    lives_on ? (void)(survivors.blocks[found.address] = {found.life, found.scope}) : end_life(block, position_);
    map_.remove_lone(block);
  }
  requested_ = allocated_ = active_ = 0;
  for (const BlockRow& row : state.blocks) {
    const Event place = place_of(row.address, row.size);
    if (!is_possible(place, 0)) continue;
    if (map_.find(row.address) != kNone) {
      note(Kind::kDamagedSnapshot, place);
      continue;
    }
    restore_block(row, map_.add_lone(row.address, row.size), survivors, unknown);
  }
}

// The lives of blocks that are not in the known state end with it.
Model::Survivors Model::end_all_but(const AddressMap& state) {
  Survivors survivors;
  for (const BlockRow& row : state.blocks) {
    const uint32_t block = map_.find(row.address);
    if (block == kNone || row.state == static_cast<uint8_t>(BlockState::kInactive)) continue;
    const Block& found = map_[block];
    // A free that was only requested cannot be taken back.
    const bool lives_on = found.is_allocated() || (found.is_active() && found.state == row.state);
    // A block of that size that was asked for with other bytes is another one.
    const bool alike = found.size == row.size && found.requested == row.requested;
    if (lives_on && alike) survivors.blocks[row.address] = {found.life, found.scope};
  }
  for (const auto& [address, run] : map_.runs()) {
    survivors.segments[address] = map_.segment_of(run.tail);
    for (uint32_t block = map_.find(address); block != kNone; block = map_[block].next) {
      // Positions before the known state end there, as the event that led to it has been played.
      if (map_[block].is_active() && survivors.blocks.count(map_[block].address) == 0) end_life(block, position_);
    }
  }
  return survivors;
}

bool Model::restore_segment(const SegmentRow& row, const Survivors& survivors, uint32_t unknown) {
  const Event place = place_of(row.address, row.total);
  if (!is_possible(place, 1)) return false;
  if (drop_overlaps(place)) note(Kind::kDamagedSnapshot, place);
  Segment segment;
  segment.begin = position_;
  segment.stream = row.stream;
  segment.pool = row.pool;
  segment.scope = unknown;
  segment.expandable = (row.flags & kSegmentExpandable) != 0;
  segment.kind = (row.flags & kSegmentLarge) != 0 ? SegmentKind::kLarge : SegmentKind::kSmall;
  segment.kind_known = true;
  const auto before = survivors.segments.find(row.address);
  const bool lives_on = before != survivors.segments.end() && is_same(map_.segments()[before->second], segment);
  map_.add_run(row.address, row.total, lives_on ? before->second : map_.add_segment(segment));
  return true;
}

// The segment is still one free block. Returns the address up to which the rows fill it.
uint64_t Model::restore_blocks(const SegmentRow& segment, const BlockRow*& row, const BlockRow* end,
                               const Survivors& survivors, uint32_t unknown) {
  const uint64_t segment_end = segment.address + segment.total;
  uint64_t at = segment.address;
  uint32_t rest = map_.find(at);
  for (; row != end && row->address < segment_end; ++row) {
    if (row->address != at || row->size == 0 || row->size > segment_end - at) return at;
    at += row->size;
    if (row->state == static_cast<uint8_t>(BlockState::kInactive)) continue;
    if (map_[rest].address < row->address) map_.cut(rest, row->address);
    restore_block(*row, map_.take(rest, row->size), survivors, unknown);
  }
  return at;
}

void Model::restore_block(const BlockRow& row, uint32_t block, const Survivors& survivors, uint32_t unknown) {
  const auto survivor = survivors.blocks.find(row.address);
  const bool lives_on = survivor != survivors.blocks.end();
  Block& found = map_[block];
  found.requested = row.requested;
  found.scope = row.scope > 0 ? static_cast<uint32_t>(row.scope) : lives_on ? survivor->second.scope : unknown;
  found.life = lives_on ? survivor->second.life : add_life(found, position_);
  requested_ += row.requested;
  allocated_ += row.size;
  active_ += row.size;
  if (row.state == static_cast<uint8_t>(BlockState::kPendingFree)) mark_freed(block, position_);
}

AddressMap Model::address_map(uint64_t position) {
  AddressMap state;
  state.position = position;
  for (const uint32_t number : map_.lone_blocks()) {
    const Block& block = map_[number];
    state.blocks.push_back({block.address, block.size, block.requested, 0, scope_number(block.scope), block.state});
  }
  for (const auto& [address, run] : map_.runs()) {
    const Segment& segment = map_.segments()[map_.segment_of(run.tail)];
    SegmentRow row{address, run.end - address, 0, 0, 0, segment.stream, segment.pool, 0, 0};
    row.flags = static_cast<uint8_t>((segment.kind == SegmentKind::kLarge ? kSegmentLarge : 0) |
                                     (segment.expandable ? kSegmentExpandable : 0));
    for (uint32_t number = map_.find(address); number != kNone; number = map_[number].next) {
      const Block& block = map_[number];
      const bool active = block.is_active();
      state.blocks.push_back({block.address, block.size, active ? block.requested : 0, address,
                              active ? scope_number(block.scope) : 0, block.state});
      row.allocated += block.is_allocated() ? block.size : 0;
      row.active += active ? block.size : 0;
      row.requested += active ? block.requested : 0;
      ++row.blocks;
    }
    state.segments.push_back(row);
  }
  return state;
}

}  // namespace wanhook::replay
