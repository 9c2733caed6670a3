// Hands out address ranges, first fit, and takes them back, as a driver does.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>

namespace made_gpu {

class Addresses {
 public:
  void give(uint64_t begin, uint64_t bytes) { free_[begin] = bytes; }

  // 0 where there is no such range.
  uint64_t take(uint64_t bytes) {
    bytes = (bytes + 511) / 512 * 512;
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      if (range->second < bytes) continue;
      const uint64_t address = range->first;
      const uint64_t left = range->second - bytes;
      free_.erase(range);
      if (left > 0) free_[address + bytes] = left;
      taken_[address] = bytes;
      return address;
    }
    return 0;
  }

  // Its bytes; 0 for an unknown one.
  uint64_t give_back(uint64_t address) {
    const auto found = taken_.find(address);
    if (found == taken_.end()) return 0;
    const uint64_t bytes = found->second;
    taken_.erase(found);
    auto range = free_.emplace(address, bytes).first;
    const auto above = std::next(range);
    if (above != free_.end() && range->first + range->second == above->first) {
      range->second += above->second;
      free_.erase(above);
    }
    if (range != free_.begin()) {
      const auto below = std::prev(range);
      if (below->first + below->second == range->first) {
        below->second += range->second;
        free_.erase(range);
      }
    }
    return bytes;
  }

 private:
  std::map<uint64_t, uint64_t> free_;
  std::map<uint64_t, uint64_t> taken_;
};

}  // namespace made_gpu
