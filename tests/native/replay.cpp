// The block model under random events, valid ones and damaged ones: after each its map must hold together and its
// counters must be the sums over it. Meant for the sanitizers (`make sanitize`).
#include <cstdio>
#include <random>
#include <vector>

#include "expect.h"
#include "replay/replay.h"

namespace wanhook::test {
namespace {

using replay::AddressMap;
using replay::BlockRow;
using replay::Counters;
using replay::Event;
using replay::Model;
using replay::SegmentRow;

constexpr uint64_t kMib = uint64_t{1} << 20;

bool is_free(const BlockRow& block) { return block.state == static_cast<uint8_t>(BlockState::kInactive); }

void expect_sound(const AddressMap& map, const Counters& counters) {
  uint64_t reserved = 0, allocated = 0, active = 0, requested = 0, split = 0, largest = 0, end = 0;
  auto block = map.blocks.begin();
  for (const SegmentRow& segment : map.segments) {
    EXPECT(segment.address >= end);
    end = segment.address;
    bool was_free = false;
    for (uint32_t number = 0; number < segment.blocks; ++number, ++block) {
      EXPECT(block != map.blocks.end() && block->address == end && block->size > 0);
      EXPECT(!(was_free && is_free(*block)));
      was_free = is_free(*block);
      end += block->size;
      allocated += block->state == static_cast<uint8_t>(BlockState::kAllocated) ? block->size : 0;
      active += was_free ? 0 : block->size;
      requested += was_free ? 0 : block->requested;
      split += was_free && segment.blocks > 1 && (segment.flags & kSegmentExpandable) == 0 ? block->size : 0;
      largest = was_free && block->size > largest ? block->size : largest;
    }
    EXPECT_EQUAL(end, segment.address + segment.total);
    reserved += segment.total;
  }
  EXPECT(block == map.blocks.end());
  EXPECT_EQUAL(counters.reserved, reserved);
  EXPECT_EQUAL(counters.allocated, allocated);
  EXPECT_EQUAL(counters.active, active);
  EXPECT_EQUAL(counters.requested, requested);
  EXPECT_EQUAL(counters.inactive_split, split);
  EXPECT_EQUAL(counters.largest_free, largest);
  EXPECT_EQUAL(counters.free, reserved - active);
}

class Events {
 public:
  explicit Events(uint64_t seed) : random_(seed) {}

  uint64_t below(uint64_t bound) { return std::uniform_int_distribution<uint64_t>(0, bound - 1)(random_); }

  // What fits the map: the rules of splitting are the model's own.
  Event valid(const AddressMap& map, bool expandable) {
    const uint64_t choice = below(20);
    if (map.blocks.empty() || choice == 0) return grow(expandable);
    const BlockRow& block = map.blocks[below(map.blocks.size())];
    const SegmentRow& segment = segment_of(map, block);
    if (block.state == static_cast<uint8_t>(BlockState::kAllocated)) {
      const bool folded = choice < 14;
      return make(AllocatorAction::kFreeRequested, block.address, block.requested, folded ? kFreeFolded : 0);
    }
    if (!is_free(block)) return make(AllocatorAction::kFreeCompleted, block.address, block.requested);
    if (choice == 1 && segment.blocks == 1 && !expandable) {
      return make(AllocatorAction::kSegmentFree, block.address, block.size);
    }
    if (choice == 1 && expandable && block.size >= 20 * kMib) {
      const uint64_t offset = below(2) * (block.size - 20 * kMib);
      return make(AllocatorAction::kSegmentUnmap, block.address + offset, 20 * kMib);
    }
    // Half of them are small, in segments of their own.
    const bool small = (segment.flags & kSegmentLarge) == 0;
    if (!small && block.size <= kMib) return make(AllocatorAction::kSnapshot, 0, 0);
    const uint64_t least = small ? 1 : kMib + 1;
    return make(AllocatorAction::kAlloc, block.address,
                least + below((small ? std::min(block.size, kMib) : block.size) - least + 1));
  }

  Event damaged() {
    static const uint64_t extremes[] = {0, 1, 511, 512, kMib, uint64_t{1} << 47, uint64_t{1} << 60, UINT64_MAX};
    Event event = make(static_cast<AllocatorAction>(below(14)), 0, 0, static_cast<uint8_t>(below(4)));
    event.address = below(20) == 0 ? extremes[below(8)] : kFirst + below(400) * 512 * (below(2) == 0 ? 1 : 4096);
    event.size = below(20) == 0 ? extremes[below(8)] : below(40 * kMib);
    event.stream = below(10) == 0;
    event.pool = below(10) == 0 ? 1u << 31 : 0;
    event.sequence = below(3) == 0 ? below(1000) : 0;
    return event;
  }

 private:
  static constexpr uint64_t kFirst = uint64_t{1} << 40;

  static Event make(AllocatorAction action, uint64_t address, uint64_t size, uint8_t flags = 0) {
    Event event{};
    event.action = static_cast<uint8_t>(action);
    event.flags = flags;
    event.address = address;
    event.size = size;
    return event;
  }

  Event grow(bool expandable) {
    const bool small = below(2) == 0;
    const uint64_t size = small ? 2 * kMib : 20 * kMib * (1 + below(3));
    const AllocatorAction action = expandable ? AllocatorAction::kSegmentMap : AllocatorAction::kSegmentAlloc;
    next_ += 80 * kMib;
    return make(action, kFirst + next_, size);
  }

  static const SegmentRow& segment_of(const AddressMap& map, const BlockRow& block) {
    size_t row = 0;
    while (map.segments[row].address != block.segment) ++row;
    return map.segments[row];
  }

  std::mt19937_64 random_;
  uint64_t next_ = 0;
};

replay::Settings settings(bool expandable, uint64_t max_split_size) {
  replay::Settings chosen;
  chosen.expandable_segments = expandable;
  chosen.max_split_size = max_split_size;
  return chosen;
}

void valid_events(uint64_t seed, bool expandable, uint64_t max_split_size) {
  Events events(seed);
  Model model(settings(expandable, max_split_size), {});
  model.claim(true);
  for (uint64_t position = 0; position < 3000; ++position) {
    model.play(events.valid(model.address_map(position), expandable), position);
    expect_sound(model.address_map(position + 1), model.counters());
  }
  EXPECT_EQUAL(model.contradictions().count(), 0);
  model.finish(3001);
  for (size_t row = 0; row < model.lives().size(); ++row) EXPECT(model.lives()[row].begin <= model.lives()[row].end);
}

// Now and then a known state, whole or damaged, takes over.
void damaged_events(uint64_t seed, bool expandable) {
  Events events(seed);
  Model model(settings(expandable, replay::kNoLimit), {});
  model.claim(true);
  std::vector<AddressMap> states;
  for (uint64_t position = 0; position < 3000; ++position) {
    model.play(events.damaged(), position);
    expect_sound(model.address_map(position + 1), model.counters());
    if (position % 100 == 50) states.push_back(model.address_map(position + 1));
    if (position % 300 == 299) {
      AddressMap state = states[events.below(states.size())];
      state.position = position + 1;
      if (events.below(2) == 0 && !state.blocks.empty()) {
        state.blocks[events.below(state.blocks.size())].size = events.below(UINT64_MAX);
        state.blocks.erase(state.blocks.begin() + static_cast<ptrdiff_t>(events.below(state.blocks.size())));
      }
      model.restart(state, replay::kNotRecorded);
      expect_sound(model.address_map(position + 1), model.counters());
    }
  }
  EXPECT(model.contradictions().count() > 0);
  model.finish(3001);
}

void host_events(uint64_t seed) {
  Events events(seed);
  Model model(settings(false, replay::kNoLimit), {true, false, true});
  for (uint64_t position = 0; position < 20000; ++position) model.play(events.damaged(), position);
  model.finish(20001);
}

}  // namespace
}  // namespace wanhook::test

int main() {
  using namespace wanhook::test;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    valid_events(seed, seed % 2 == 0, seed % 4 == 1 ? 32 * kMib : wanhook::replay::kNoLimit);
    damaged_events(seed, seed % 2 == 0);
    host_events(seed);
  }
  std::printf("replay: valid and damaged events passed\n");
  return 0;
}
