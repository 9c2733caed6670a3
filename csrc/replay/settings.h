#pragma once

#include <array>
#include <cstdint>
#include <limits>

namespace wanhook::replay {

inline constexpr uint64_t kMinBlock = 512;
inline constexpr uint64_t kMostSmall = uint64_t{1} << 20;    // requests up to here come from the small pool
inline constexpr uint64_t kSmallSegment = uint64_t{2} << 20;
inline constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();
inline constexpr int kRoundupIntervals = 16;

// The settings of torch's caching allocator that decide the sizes of blocks and segments.
struct Settings {
  uint64_t max_split_size = kNoLimit;
  // For the powers of two from 1 MiB on; the first counts for what is smaller, the last for what is larger. 0, 1: off.
  std::array<uint64_t, kRoundupIntervals> roundup_power2_divisions{};
  uint64_t large_segment_size = uint64_t{20} << 20;
  bool expandable_segments = false;
  double garbage_collection_threshold = 0;  // decides when segments are freed, which the events tell

  // Bytes that a request takes up before the rest of a block is or is not split off. requested: at most 2^62.
  uint64_t block_size(uint64_t requested) const noexcept;

  bool rounds_up() const noexcept {
    for (const uint64_t divisions : roundup_power2_divisions) {
      if (divisions > 1) return true;
    }
    return false;
  }

  // Whether the rest of a free block is split off. fine: in the small pool, and wherever segments are expandable.
  bool splits(uint64_t size, uint64_t rest, bool fine) const noexcept {
    return fine ? rest >= kMinBlock : size < max_split_size && rest > kMostSmall;
  }
};

}  // namespace wanhook::replay
