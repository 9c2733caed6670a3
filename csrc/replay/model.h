#pragma once

#include <cstdint>

#include "replay/block_map.h"
#include "replay/contradictions.h"
#include "replay/counters.h"
#include "replay/event_table.h"
#include "replay/known_state.h"
#include "replay/lives.h"
#include "replay/settings.h"

namespace wanhook::replay {

struct ModelOptions {
  bool host = false;
  bool largest_free = true;
  bool lives = true;
};

// One device's caching allocator, driven by what it recorded. An event that contradicts the state is put right as well
// as can be; from the first one on the state is an estimate, until a known state replaces it.
//
// Takes any events without failing: damaged ones cost at most a bounded number of steps each.
class Model {
 public:
  Model(const Settings& settings, const ModelOptions& options)
      : settings_(settings), options_(options), map_(options.largest_free) {}

  // Plays the event that leads from a position to the next one. Where sizes are rounded to divisions of powers of two
  // (needs_next), foresee() is to be called before it with the address of the event behind it, if that allocates.
  void play(const Event& event, uint64_t position);
  bool needs_next() const noexcept { return settings_.rounds_up(); }
  void foresee(uint64_t next_allocation) noexcept { next_allocation_ = next_allocation; }
  // Starts over from a known state. What was live before and is in it keeps its life and its scope; `unknown` stands
  // for the scope of the rest.
  void restart(const AddressMap& state, uint32_t unknown);
  // From here on contradictions are noted (a known state, or an empty device that was watched from its start), or not.
  void claim(bool claimed) noexcept { claimed_ = claimed; }
  // Events may be missing before the next one, which its number would not show.
  void expect_any_sequence() noexcept { expected_sequence_ = 0; }

  Counters counters() const noexcept {
    const uint64_t reserved = options_.host ? 0 : map_.reserved();
    return {static_cast<int64_t>(requested_),
            static_cast<int64_t>(allocated_),
            static_cast<int64_t>(active_),
            static_cast<int64_t>(reserved),
            static_cast<int64_t>(map_.inactive_split()),
            static_cast<int64_t>(options_.host ? 0 : reserved - active_),
            options_.largest_free ? static_cast<int64_t>(map_.largest_free()) : -1};
  }
  AddressMap address_map(uint64_t position);  // in known_state.cpp, as restart
  // The position from which the present claim does not hold; kNoLimit while it does.
  uint64_t inexact_from() const noexcept { return inexact_from_; }
  void set_inexact_from(uint64_t position) noexcept { inexact_from_ = position; }

  Contradictions& contradictions() noexcept { return contradictions_; }
  GrowingRows<BlockLife>& lives() noexcept { return lives_; }
  BlockMap& map() noexcept { return map_; }
  // Closes the tables, and the model with them: what still lives ends behind the last position, and segments that
  // turned out to be parts of others leave.
  void finish(uint64_t positions);

 private:
  using Kind = ContradictionKind;

  void allocate(const Event& event);
  void play_on_host(AllocatorAction action, const Event& event);
  void request_free(const Event& event);
  void complete_free(const Event& event);
  void add_segment(const Event& event);
  void free_segment(const Event& event);
  void map_memory(const Event& event);
  void unmap_memory(const Event& event);

  void begin_life(uint32_t block, const Event& event);
  uint32_t add_life(const Block& block, uint64_t begin);
  void mark_freed(uint32_t block, uint64_t position);
  void end_life(uint32_t block, uint64_t position);
  uint32_t complete(uint32_t block);
  bool is_possible(const Event& event, uint64_t least);
  bool is_put_back(const Event& event, uint64_t room) const noexcept;
  bool splits_finely(const Segment& segment) const noexcept;
  void check_segment(uint32_t segment, const Event& event, uint64_t size);

  // Putting contradictions right.
  void note(Kind kind, const Event& event);
  void check_sequence(const Event& event);
  uint32_t make_room(const Event& event);
  uint32_t open_at(uint32_t block, const Event& event);
  uint32_t lone_block(const Event& event);
  uint32_t block_holding(BlockMap::Runs::iterator run, uint64_t address);
  uint32_t clear_range(const Event& event);
  bool drop_overlaps(const Event& event);
  void drop_run(BlockMap::Runs::iterator run);

  // Starting over.
  struct Survivors;
  void restart_on_host(const AddressMap& state, uint32_t unknown);
  Survivors end_all_but(const AddressMap& state);
  bool restore_segment(const SegmentRow& row, const Survivors& survivors, uint32_t unknown);
  uint64_t restore_blocks(const SegmentRow& segment, const BlockRow*& row, const BlockRow* end,
                          const Survivors& survivors, uint32_t unknown);
  void restore_block(const BlockRow& row, uint32_t block, const Survivors& survivors, uint32_t unknown);

  Segment segment_like(const Event& event, bool expandable) const noexcept;

  const Settings settings_;
  const ModelOptions options_;
  BlockMap map_;
  GrowingRows<BlockLife> lives_;
  Contradictions contradictions_;
  uint64_t position_ = 0;  // before the event that is being played
  uint64_t requested_ = 0;
  uint64_t allocated_ = 0;
  uint64_t active_ = 0;
  uint64_t inexact_from_ = kNoLimit;
  uint64_t expected_sequence_ = 0;  // 0: any
  uint64_t next_allocation_ = 0;
  uint64_t steps_ = 0;  // left for searching through runs
  bool last_folded_ = false;
  bool claimed_ = false;
};

}  // namespace wanhook::replay
