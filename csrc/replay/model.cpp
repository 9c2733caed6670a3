#include "replay/model.h"

#include <algorithm>

namespace wanhook::replay {
namespace {

// What is larger is damaged.
constexpr uint64_t kMostBytes = uint64_t{1} << 47;
constexpr uint64_t kMostAddress = uint64_t{1} << 60;
constexpr uint32_t kMemPool = uint32_t{1} << 31;
constexpr uint64_t kStepsAnEvent = 64;
constexpr uint64_t kMostSteps = uint64_t{1} << 22;

}  // namespace

void Model::play(const Event& event, uint64_t position) {
  position_ = position;
  check_sequence(event);
  const auto action = static_cast<AllocatorAction>(event.action);
  if (options_.host) return play_on_host(action, event);
  switch (action) {
    case AllocatorAction::kAlloc:
      return allocate(event);
    case AllocatorAction::kFreeRequested:
      return request_free(event);
    case AllocatorAction::kFreeCompleted:
      return complete_free(event);
    case AllocatorAction::kSegmentAlloc:
      return add_segment(event);
    case AllocatorAction::kSegmentFree:
      return free_segment(event);
    case AllocatorAction::kSegmentMap:
      return map_memory(event);
    case AllocatorAction::kSegmentUnmap:
      return unmap_memory(event);
    default:
      return;  // snapshots, OOM and annotations change nothing
  }
}

// No segments, no sizes of blocks, no deferred frees. What is freed and not known was allocated before anybody
// watched.
void Model::play_on_host(AllocatorAction action, const Event& event) {
  const bool opens = action == AllocatorAction::kAlloc;
  if (!opens && action != AllocatorAction::kFreeRequested && action != AllocatorAction::kFreeCompleted) return;
  if (opens && !is_possible(event, 0)) return;
  const uint32_t before = map_.find(event.address);
  if (before != kNone) {
    if (opens) note(Kind::kAllocationInUse, event);
    end_life(before, position_ + 1);
    map_.remove_lone(before);
  }
  if (opens) begin_life(map_.add_lone(event.address, event.size), event);
}

// Numbers are consecutive but for a folded free, which stands for two events.
void Model::check_sequence(const Event& event) {
  if (steps_ < kMostSteps) steps_ += kStepsAnEvent;
  if (event.sequence == 0) return;
  const uint64_t ahead = event.sequence - expected_sequence_;
  if (expected_sequence_ != 0 && ahead != 0 && !(last_folded_ && ahead == 1)) note(Kind::kEventsMissing, event);
  expected_sequence_ = event.sequence + 1;
  last_folded_ = event.folded() && !options_.host;
}

void Model::allocate(const Event& event) {
  if (!is_possible(event, 0)) return;
  uint32_t block = map_.find(event.address);
  if (block == kNone || !map_[block].is_free()) block = make_room(event);
  if (block == kNone) return;
  const uint32_t number = map_.segment_of(block);
  const uint64_t room = map_[block].size;
  const uint64_t size = is_put_back(event, room) ? event.size : settings_.block_size(event.size);
  check_segment(number, event, size);
  const Segment& segment = map_.segments()[number];
  if (size > room) {
    note(Kind::kAllocationTooLarge, event);
    block = map_.take(block, room);
  } else {
    block = map_.take(block, settings_.splits(size, room - size, splits_finely(segment)) ? size : room);
  }
  begin_life(block, event);
}

// When the pool of a captured graph is put back into an earlier state, torch asks for whole blocks, one behind the
// other, and does not round them again. A request that is rounded can neither fill a block that it does not fit, nor be
// followed by one right behind its unrounded end.
bool Model::is_put_back(const Event& event, uint64_t room) const noexcept {
  return event.pool != 0 && event.size > 0 && event.size % kMinBlock == 0 &&
         (event.size == room || next_allocation_ == event.address + event.size);
}

void Model::begin_life(uint32_t block, const Event& event) {
  Block& found = map_[block];
  found.requested = event.size;
  found.scope = event.scope;
  requested_ += found.requested;
  allocated_ += found.size;
  active_ += found.size;
  found.life = add_life(found, position_ + 1);
}

uint32_t Model::add_life(const Block& block, uint64_t begin) {
  if (!options_.lives) return 0;
  lives_.push_back({block.address, static_cast<int64_t>(block.size), static_cast<int64_t>(block.requested),
                    static_cast<int64_t>(begin), -1, -1, scope_number(block.scope),
                    map_.segments()[block.segment].stream, static_cast<int32_t>(block.segment)});
  return static_cast<uint32_t>(lives_.size() - 1);
}

void Model::request_free(const Event& event) {
  const uint32_t block = map_.find(event.address);
  if (block == kNone || !map_[block].is_active()) return note(Kind::kFreeUnknown, event);
  if (map_[block].is_allocated()) {
    if (map_[block].requested != event.size) note(Kind::kFreeOtherSize, event);
    mark_freed(block, position_ + 1);
  } else {
    note(Kind::kFreeTwice, event);
  }
  if (event.folded()) complete(block);
}

void Model::complete_free(const Event& event) {
  const uint32_t block = map_.find(event.address);
  if (block == kNone || !map_[block].is_active()) return note(Kind::kFreeUnknown, event);
  if (map_[block].is_allocated()) note(Kind::kFreeNotRequested, event);
  complete(block);
}

void Model::mark_freed(uint32_t block, uint64_t position) {
  Block& found = map_[block];
  if (!found.is_allocated()) return;
  found.state = static_cast<uint8_t>(BlockState::kPendingFree);
  allocated_ -= found.size;
  if (!options_.lives) return;
  // A known state that still has it waiting tells nothing of when its free was asked for.
  int64_t& freed = lives_[found.life].freed;
  if (freed < 0) freed = static_cast<int64_t>(position);
}

// The block is no longer active; the caller gives its memory back to the map.
void Model::end_life(uint32_t block, uint64_t position) {
  mark_freed(block, position);
  const Block& found = map_[block];
  active_ -= found.size;
  requested_ -= found.requested;
  if (options_.lives) lives_[found.life].end = static_cast<int64_t>(position);
}

// The number of the free block that it becomes a part of; kNone when it was all that is known of its segment.
uint32_t Model::complete(uint32_t block) {
  end_life(block, position_ + 1);
  if (!map_.segments()[map_.segment_of(block)].lone) return map_.release(block);
  map_.drop(map_.run_at(map_[block].address), position_ + 1);
  return kNone;
}

bool Model::is_possible(const Event& event, uint64_t least) {
  if (event.size >= least && event.size <= kMostBytes && event.address != 0 && event.address <= kMostAddress) {
    return true;
  }
  note(Kind::kImpossibleRange, event);
  return false;
}

// torch splits by the rule of expandable segments wherever it may use these, so also in a plain segment that is left
// from before they were switched on. A MemPool with an allocator of its own has none.
bool Model::splits_finely(const Segment& segment) const noexcept {
  return segment.kind == SegmentKind::kSmall || segment.expandable ||
         (settings_.expandable_segments && (segment.pool & kMemPool) == 0);
}

void Model::check_segment(uint32_t number, const Event& event, uint64_t size) {
  Segment& segment = map_.segments()[number];
  const SegmentKind kind = size <= kMostSmall ? SegmentKind::kSmall : SegmentKind::kLarge;
  if (!segment.kind_known) {
    segment.kind = kind;
    segment.kind_known = true;
  }
  // Putting the pool of a captured graph back into an earlier state allocates blocks of any size in it.
  const bool fits = segment.kind == kind || segment.pool != 0;
  if (!fits || segment.stream != event.stream || segment.pool != event.pool) note(Kind::kAllocationElsewhere, event);
}

Segment Model::segment_like(const Event& event, bool expandable) const noexcept {
  Segment segment;
  segment.begin = position_ + 1;
  segment.end = kNoLimit;
  segment.stream = event.stream;
  segment.pool = event.pool;
  segment.scope = event.scope;
  segment.expandable = expandable;
  segment.kind = event.size == kSmallSegment ? SegmentKind::kSmall : SegmentKind::kLarge;
  return segment;
}

void Model::add_segment(const Event& event) {
  if (!is_possible(event, 1)) return;
  if (drop_overlaps(event)) note(Kind::kSegmentOverlaps, event);
  map_.add_run(event.address, event.size, map_.add_segment(segment_like(event, false)));
}

void Model::map_memory(const Event& event) {
  if (!is_possible(event, 1)) return;
  if (drop_overlaps(event)) note(Kind::kSegmentOverlaps, event);
  map_.map(event.address, event.size, segment_like(event, true));
}

void Model::free_segment(const Event& event) {
  const auto run = map_.run_at(event.address);
  if (run == map_.runs().end() || run->first != event.address || map_[map_.find(event.address)].expandable) {
    return note(Kind::kSegmentUnknown, event);
  }
  const Block& first = map_[map_.find(event.address)];
  if (!first.is_free() || first.next != kNone) note(Kind::kSegmentInUse, event);
  if (run->second.end - run->first != event.size) note(Kind::kSegmentOtherSize, event);
  drop_run(run);
}

void Model::unmap_memory(const Event& event) {
  if (!is_possible(event, 1)) return;
  uint32_t block = map_.wide_free_at(event.address);
  if (block == kNone || map_[block].end() < event.address + event.size) {
    note(Kind::kUnmapInUse, event);
    block = clear_range(event);
    if (block == kNone) return;
  }
  const uint64_t end = std::min(map_[block].end(), event.address + event.size);
  map_.unmap(block, event.address, end - event.address, position_ + 1);
}

void Model::finish(uint64_t positions) {
  std::vector<Segment>& segments = map_.segments();
  std::vector<int32_t> rows(segments.size(), -1);
  std::vector<Segment> kept;
  for (size_t number = 1; number < segments.size(); ++number) {
    if (segments[number].joined != number) continue;
    rows[number] = static_cast<int32_t>(kept.size());
    kept.push_back(segments[number]);
    kept.back().end = std::min(kept.back().end, positions);
  }
  for (size_t row = 0; row < lives_.size(); ++row) {
    BlockLife& life = lives_[row];
    if (life.freed < 0) life.freed = static_cast<int64_t>(positions);
    if (life.end < 0) life.end = static_cast<int64_t>(positions);
    life.segment = rows[map_.root(static_cast<uint32_t>(life.segment))];
  }
  segments.swap(kept);
}

}  // namespace wanhook::replay
