#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/record.h"

namespace wanhook::replay {

struct Event {
  uint8_t action;  // AllocatorAction
  uint8_t flags;   // AllocatorFlags
  uint64_t sequence;
  uint64_t address;
  uint64_t size;
  uint64_t stream;
  uint32_t pool;
  uint32_t scope;

  bool folded() const noexcept { return (flags & kFreeFolded) != 0; }
};

// One device's events where the caller has them: rows `stride` bytes apart, each field at its own place in a row.
// Does not own them.
struct EventTable {
  const unsigned char* rows = nullptr;
  ptrdiff_t stride = 0;
  uint64_t count = 0;
  size_t action = 0, flags = 0, sequence = 0, address = 0, size = 0, stream = 0, pool = 0, scope = 0;

  Event operator[](uint64_t index) const noexcept {
    const unsigned char* row = rows + static_cast<ptrdiff_t>(index) * stride;
    return {row[action],
            row[flags],
            load<uint64_t>(row + sequence),
            load<uint64_t>(row + address),
            load<uint64_t>(row + size),
            load<uint64_t>(row + stream),
            load<uint32_t>(row + pool),
            load<uint32_t>(row + scope)};
  }

 private:
  template <class Value>
  static Value load(const unsigned char* place) noexcept {
    Value value;
    std::memcpy(&value, place, sizeof value);  // rows need not be aligned
    return value;
  }
};

}  // namespace wanhook::replay
