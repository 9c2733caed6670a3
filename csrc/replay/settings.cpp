#include "replay/settings.h"

#include <algorithm>

namespace wanhook::replay {
namespace {

int floor_log2(uint64_t value) noexcept { return 63 - __builtin_clzll(value); }

// The next multiple of a division of the power of two below `size`.
uint64_t round_to_division(uint64_t size, uint64_t divisions) noexcept {
  const uint64_t power = uint64_t{1} << floor_log2(size);
  if (power == size) return size;
  const uint64_t division = power >> floor_log2(divisions);
  if (division == 0) return power << 1;
  return (size + division - 1) / division * division;
}

}  // namespace

uint64_t Settings::block_size(uint64_t requested) const noexcept {
  if (requested < kMinBlock) return kMinBlock;
  const int interval = std::clamp(floor_log2(requested) - floor_log2(uint64_t{1} << 20), 0, kRoundupIntervals - 1);
  const uint64_t divisions = roundup_power2_divisions[static_cast<size_t>(interval)];
  if (divisions > 1 && requested > kMinBlock * divisions) return round_to_division(requested, divisions);
  return (requested + kMinBlock - 1) / kMinBlock * kMinBlock;
}

}  // namespace wanhook::replay
