#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "replay/model.h"

namespace wanhook::replay {

// A stretch of positions behind one known state, or behind none.
struct Epoch {
  int64_t begin;
  int64_t end;
  int64_t inexact_from;  // end when exact to the end; begin when nothing is known
  uint8_t known;
};

// Address maps are kept as long as they have no more blocks in all than there are events, and these: a file can ask for
// many maps of many blocks at little cost to itself.
inline constexpr uint64_t kMapBlocks = uint64_t{1} << 20;

// What to replay. Positions are in ascending order; position p is the state after the first p events.
struct Plan {
  EventTable events;
  std::vector<AddressMap> states;  // known, each at its position
  std::vector<uint64_t> unknown_from;  // nothing is claimed from there to the next known state
  std::vector<uint64_t> maps_at;
  bool known_at_start = false;  // the device was empty at position 0
};

struct Outcome {
  std::vector<Epoch> epochs;
  std::vector<AddressMap> maps;
};

// Plays the events; `counters` gets events.count + 1 rows.
Outcome replay(Model& model, const Plan& plan, Counters* counters);

}  // namespace wanhook::replay
