#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace wanhook::replay {

enum class ContradictionKind : uint8_t {
  kEventsMissing = 1,
  kAllocationOutside,
  kAllocationInUse,
  kAllocationInside,
  kAllocationTooLarge,
  kAllocationElsewhere,
  kFreeUnknown,
  kFreeOtherSize,
  kFreeTwice,
  kFreeNotRequested,
  kSegmentOverlaps,
  kSegmentUnknown,
  kSegmentInUse,
  kSegmentOtherSize,
  kUnmapInUse,
  kImpossibleRange,
  kDamagedSnapshot,
  kEnd,
};

inline constexpr std::array<const char*, static_cast<size_t>(ContradictionKind::kEnd)> kContradictionPhrases = {
    "",
    "events are missing",
    "allocation outside every known segment",
    "allocation inside a block that is in use",
    "allocation inside a free block, not at its start",
    "allocation larger than the free block it is in",
    "allocation in a segment of another stream, pool or size class",
    "free of an address that is not allocated",
    "free of another size than was allocated",
    "second free of a block",
    "completion of a free that was not requested",
    "new segment over a known one",
    "release of a segment that is not known",
    "release of a segment with blocks in use",
    "release of a segment with another size",
    "unmapping of memory that is not free",
    "size or address that cannot be",
    "snapshot whose blocks do not fill its segments",
};

// The columns of wanhook._replay.CONTRADICTION.
struct Contradiction {
  int64_t position;  // the state that the event contradicts
  uint8_t kind;      // ContradictionKind
  uint64_t address;
  uint64_t size;
};

// The first of them, and how many there were.
class Contradictions {
 public:
  void note(const Contradiction& found) {
    if (++count_ <= kMostKept) kept_.push_back(found);
  }
  uint64_t count() const noexcept { return count_; }
  const std::vector<Contradiction>& kept() const noexcept { return kept_; }

 private:
  static constexpr uint64_t kMostKept = 10000;
  std::vector<Contradiction> kept_;
  uint64_t count_ = 0;
};

}  // namespace wanhook::replay
