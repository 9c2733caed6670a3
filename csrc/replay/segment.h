#pragma once

#include <cstdint>

namespace wanhook::replay {

enum class SegmentKind : uint8_t { kSmall = 0, kLarge = 1 };

// Memory that the allocator took from the device: one cudaMalloc, or the address space of one expandable segment.
// The events do not tell where an expandable address space begins: pieces that are mapped side by side are one, and
// pieces that were thought to be two become one when the gap between them is mapped.
struct Segment {
  uint64_t address = UINT64_MAX;
  uint64_t mapped = 0;   // bytes now
  uint64_t largest = 0;  // most bytes it ever had
  uint64_t begin = 0;    // positions
  uint64_t end = 0;
  uint64_t stream = 0;
  uint32_t pool = 0;
  uint32_t scope = 0;
  uint32_t joined = 0;   // itself, or the segment that it turned out to be a part of
  SegmentKind kind = SegmentKind::kLarge;
  bool kind_known = false;  // until the first allocation in it, its kind is a guess
  bool expandable = false;
  bool lone = false;        // stands for a single block whose segment is not known
};

}  // namespace wanhook::replay
