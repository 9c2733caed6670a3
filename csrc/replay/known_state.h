#pragma once

#include <cstdint>
#include <vector>

namespace wanhook::replay {

// A row of a snapshot's segments, and of an address map's: for an expandable segment one a contiguous mapped piece.
struct SegmentRow {
  uint64_t address;
  uint64_t total;
  uint64_t allocated;
  uint64_t active;
  uint64_t requested;
  uint64_t stream;
  uint32_t pool;
  uint32_t blocks;
  uint8_t flags;  // SegmentFlags
};

struct BlockRow {
  uint64_t address;
  uint64_t size;
  uint64_t requested;
  uint64_t segment;  // address of its segment
  int64_t scope;     // as in BlockLife
  uint8_t state;     // BlockState
};

// The whole address map at a position, by address.
struct AddressMap {
  uint64_t position = 0;
  std::vector<SegmentRow> segments;
  std::vector<BlockRow> blocks;
};

}  // namespace wanhook::replay
