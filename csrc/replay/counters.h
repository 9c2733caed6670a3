#pragma once

#include <cstdint>

namespace wanhook::replay {

// The columns of wanhook._replay.COUNTERS: bytes, as torch counts them.
struct Counters {
  int64_t requested;       // what the program asked for, until a free is completed
  int64_t allocated;       // blocks in use, until their free is requested
  int64_t active;          // blocks in use, until their free is completed
  int64_t reserved;        // memory taken from the device
  int64_t inactive_split;  // free blocks with neighbours, expandable segments left out
  int64_t free;            // reserved - active
  int64_t largest_free;    // -1 when not asked for
};

}  // namespace wanhook::replay
