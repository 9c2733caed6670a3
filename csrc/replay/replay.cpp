#include "replay/replay.h"

#include <algorithm>

namespace wanhook::replay {
namespace {

class Player {
 public:
  Player(Model& model, const Plan& plan, Counters* counters) : model_(model), plan_(plan), counters_(counters) {}

  Outcome play() {
    const uint64_t last = plan_.events.count;
    const bool looks_ahead = model_.needs_next();
    begin_epoch(0, plan_.known_at_start);
    for (uint64_t position = 0;;) {
      stop_at(position);
      if (position == last) break;
      // Up to the next place where something is to be done besides playing.
      const uint64_t next = std::min(next_stop(), last);
      for (; position < next; ++position) {
        if (looks_ahead) model_.foresee(allocation_at(position + 1));
        model_.play(plan_.events[position], position);
        counters_[position + 1] = model_.counters();
      }
    }
    end_epoch(last + 1);
    return std::move(outcome_);
  }

 private:
  // Known states replace what was replayed up to there; a map shows the state that counts at its position. What is
  // unknown from a known state's position on begins behind that state.
  void stop_at(uint64_t position) {
    for (; state_ < plan_.states.size() && plan_.states[state_].position <= position; ++state_) {
      end_epoch(position);
      begin_epoch(position, true);
      model_.restart(plan_.states[state_], state_ == 0 ? kBeforeRecording : kNotRecorded);
    }
    for (; unknown_ < plan_.unknown_from.size() && plan_.unknown_from[unknown_] <= position; ++unknown_) {
      model_.set_inexact_from(std::min(model_.inexact_from(), position));
      model_.claim(false);  // what was not recorded is no contradiction
      model_.expect_any_sequence();
    }
    counters_[position] = model_.counters();
    for (; map_ < plan_.maps_at.size() && plan_.maps_at[map_] <= position; ++map_) {
      const uint64_t blocks = model_.map().block_count();
      if (blocks > map_blocks_left_) continue;
      map_blocks_left_ -= blocks;
      outcome_.maps.push_back(model_.address_map(position));
    }
  }

  uint64_t allocation_at(uint64_t index) const noexcept {
    if (index >= plan_.events.count) return 0;
    const Event event = plan_.events[index];
    return event.action == static_cast<uint8_t>(AllocatorAction::kAlloc) ? event.address : 0;
  }

  uint64_t next_stop() const noexcept {
    uint64_t next = kNoLimit;
    if (state_ < plan_.states.size()) next = std::min(next, plan_.states[state_].position);
    if (map_ < plan_.maps_at.size()) next = std::min(next, plan_.maps_at[map_]);
    if (unknown_ < plan_.unknown_from.size()) next = std::min(next, plan_.unknown_from[unknown_]);
    return next;
  }

  void begin_epoch(uint64_t position, bool known) {
    const auto begin = static_cast<int64_t>(position);
    outcome_.epochs.push_back({begin, begin, begin, known});
    model_.claim(known);
    model_.set_inexact_from(kNoLimit);
  }

  void end_epoch(uint64_t position) {
    Epoch& epoch = outcome_.epochs.back();
    epoch.end = static_cast<int64_t>(position);
    if (epoch.known) epoch.inexact_from = static_cast<int64_t>(std::min(model_.inexact_from(), position));
    if (epoch.begin == epoch.end) outcome_.epochs.pop_back();
  }

  Model& model_;
  const Plan& plan_;
  Counters* counters_;
  Outcome outcome_;
  uint64_t map_blocks_left_ = plan_.events.count + kMapBlocks;
  size_t state_ = 0;
  size_t map_ = 0;
  size_t unknown_ = 0;
};

}  // namespace

Outcome replay(Model& model, const Plan& plan, Counters* counters) { return Player(model, plan, counters).play(); }

}  // namespace wanhook::replay
