// The blocks that the CPU twin has handed out and not got back: what its state is written from.
//
// add() and remove() are called on every allocation and free of every thread: no lock, no allocation, a bounded number
// of steps. An address is given out once at a time, so a table of addresses needs no more than a free place in a window
// that the address decides. Where the window is full the block stays out, and whoever compares the table with the
// twin's counters sees that it is not all of them.
//
// Rejected: a header in front of each block (moves what torch aligned), a map under a lock (hooks never block).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace wanhook {

struct LiveBlock {
  uint64_t address;
  uint64_t bytes;
};

class LiveBlocks {
 public:
  static constexpr size_t kPlaces = size_t{1} << 17;
  static constexpr size_t kWindow = 64;

  void add(uint64_t address, uint64_t bytes) noexcept {
    const size_t first = place_of(address);
    for (size_t step = 0; step < kWindow; ++step) {
      Place& place = places_[(first + step) % kPlaces];
      uint64_t free_place = 0;
      if (place.address.load(std::memory_order_relaxed) != 0) continue;
      if (!place.address.compare_exchange_strong(free_place, kTaken, std::memory_order_relaxed)) continue;
      place.bytes.store(bytes, std::memory_order_relaxed);
      place.address.store(address, std::memory_order_release);
      return;
    }
  }

  void remove(uint64_t address) noexcept {
    const size_t first = place_of(address);
    for (size_t step = 0; step < kWindow; ++step) {
      Place& place = places_[(first + step) % kPlaces];
      if (place.address.load(std::memory_order_relaxed) != address) continue;
      place.address.store(0, std::memory_order_release);
      return;
    }
  }

  // Those that are there; it is the caller's to know that nothing changed meanwhile. Throws std::bad_alloc.
  std::vector<LiveBlock> all() const {
    std::vector<LiveBlock> found;
    for (const Place& place : places_) {
      const uint64_t address = place.address.load(std::memory_order_acquire);
      if (address > kTaken) found.push_back({address, place.bytes.load(std::memory_order_relaxed)});
    }
    return found;
  }

 private:
  static constexpr uint64_t kTaken = 1;  // no block begins there

  struct Place {
    std::atomic<uint64_t> address{0};
    std::atomic<uint64_t> bytes{0};
  };

  // The upper bits of a product depend on all bits of the address.
  static size_t place_of(uint64_t address) noexcept {
    return static_cast<size_t>((address * 0x9e3779b97f4a7c15) >> 47);
  }
  static_assert(kPlaces == size_t{1} << (64 - 47));

  std::array<Place, kPlaces> places_{};
};

}  // namespace wanhook
