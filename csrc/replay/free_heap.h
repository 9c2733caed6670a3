#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "replay/block.h"

namespace wanhook::replay {

// The free blocks with the largest on top: a heap of four children, whose places stand in the blocks themselves.
class FreeHeap {
 public:
  explicit FreeHeap(std::vector<Block>& blocks) : blocks_(blocks) {}

  uint64_t largest() const noexcept { return entries_.empty() ? 0 : entries_[0].size; }

  void insert(uint32_t block) {
    entries_.push_back({0, block});
    rise(entries_.size() - 1, {blocks_[block].size, block});
  }

  // Puts a block in its place again after its size has changed.
  void update(uint32_t block) noexcept {
    const size_t at = blocks_[block].heap_place;
    const Entry entry{blocks_[block].size, block};
    entry.size > entries_[at].size ? rise(at, entry) : sink(at, entry);
  }

  void erase(uint32_t block) noexcept {
    const size_t at = blocks_[block].heap_place;
    const Entry last = entries_.back();
    entries_.pop_back();
    if (at == entries_.size()) return;
    last.size > entries_[at].size ? rise(at, last) : sink(at, last);
  }

  void clear() noexcept { entries_.clear(); }

 private:
  struct Entry {
    uint64_t size;
    uint32_t block;
  };

  void put(size_t at, Entry entry) noexcept {
    entries_[at] = entry;
    blocks_[entry.block].heap_place = static_cast<uint32_t>(at);
  }

  void rise(size_t at, Entry entry) noexcept {
    while (at > 0 && entries_[(at - 1) / 4].size < entry.size) {
      put(at, entries_[(at - 1) / 4]);
      at = (at - 1) / 4;
    }
    put(at, entry);
  }

  void sink(size_t at, Entry entry) noexcept {
    for (size_t child = 4 * at + 1; child < entries_.size(); child = 4 * at + 1) {
      const size_t end = child + 4 < entries_.size() ? child + 4 : entries_.size();
      size_t best = child;
      while (++child < end) best = entries_[child].size > entries_[best].size ? child : best;
      if (entries_[best].size <= entry.size) break;
      put(at, entries_[best]);
      at = best;
    }
    put(at, entry);
  }

  std::vector<Block>& blocks_;
  std::vector<Entry> entries_;
};

}  // namespace wanhook::replay
