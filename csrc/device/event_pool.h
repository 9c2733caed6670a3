// Pairs of CUDA timing events, reused for the life of the process.
//
// take() and put_back() are lock-free and callable from any thread: a Treiber stack of indices with a tag against ABA.
// take() creates a pair (a few µs) when the stack is empty; the resolver refills it ahead of need.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "core/fetch_ahead.h"
#include "core/record.h"

namespace wanhook {

class Recording;

// Own pairs use the first cache line alone.
struct alignas(64) EventPair {
  static constexpr size_t kKeeperBytes = 32;

  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  cudaStream_t stream = nullptr;
  Recording* recording = nullptr;
  uint32_t owner = 0;
  SpanOwner owner_type = SpanOwner::kScope;
  int8_t device = -1;
  std::atomic<uint32_t> next{0};  // index + 1 of the next one in a list
  // Lent events only: what keeps them alive, in place because the hooks may not allocate, and how to let go of it.
  void (*release)(void* keeper) noexcept = nullptr;
  alignas(void*) unsigned char keeper[kKeeperBytes];

  template <class Keeper>
  void keep(Keeper value) noexcept {
    static_assert(sizeof(Keeper) <= kKeeperBytes && alignof(Keeper) <= alignof(void*));
    new (keeper) Keeper(std::move(value));
    release = [](void* kept) noexcept { static_cast<Keeper*>(kept)->~Keeper(); };
  }
};

// Fetches what the driver keeps of an event, from where a handle points on, for a record that comes soon: between a
// model's kernels it is cold. With driver 580 one event lies 592 bytes behind the other; where a driver has it
// otherwise, other lines are fetched, and nothing else happens.
inline void fetch_event(cudaEvent_t event) noexcept {
  constexpr int kLines = 9;
  for (int line = 0; line < kLines; ++line) fetch_ahead(reinterpret_cast<const char*>(event) + 64 * line);
}

class EventPool {
 public:
  static constexpr uint32_t kBlockPairs = 256;
  static constexpr uint32_t kMaxBlocks = 1024;

  // `lent`: the pairs are empty, for events that somebody else made; then no device need be current.
  explicit EventPool(int device, bool lent = false) : device_(device), lent_(lent) {}

  // Index of a pair, or kNone. The device must be current.
  static constexpr uint32_t kNone = UINT32_MAX;
  [[gnu::hot]] uint32_t take() noexcept;
  void put_back(uint32_t index) noexcept;
  // Fetches the first event of the pair that take() would give now.
  void fetch_next() noexcept {
    const uint32_t next = Head(free_.load(std::memory_order_acquire)).first();
    if (next != 0) fetch_event(pair(next - 1).begin);
  }
  // Creates pairs until `count` lie ready. The resolver's part; the device must be current.
  void refill(uint32_t count) noexcept;

  EventPair& pair(uint32_t index) noexcept {
    return blocks_[index / kBlockPairs].load(std::memory_order_acquire)[index % kBlockPairs];
  }
  uint32_t created() const noexcept { return created_.load(std::memory_order_relaxed); }
  uint32_t ready() const noexcept { return Head(free_.load(std::memory_order_relaxed)).ready(); }

 private:
  // The stack's head, one word, so that a pair is taken and counted by one locked instruction: the first free pair's
  // index + 1 and the number of free ones, 20 bits each, and a tag.
  class Head {
   public:
    static constexpr int kBits = 20;
    static_assert(kBlockPairs * kMaxBlocks < (1u << kBits));
    explicit Head(uint64_t word) noexcept : word_(word) {}
    uint32_t first() const noexcept { return static_cast<uint32_t>(word_ & kMask); }
    uint32_t ready() const noexcept { return static_cast<uint32_t>(word_ >> kBits & kMask); }
    uint64_t then(uint32_t first, uint32_t ready) const noexcept {
      return ((word_ >> 2 * kBits) + 1) << 2 * kBits | uint64_t{ready} << kBits | first;
    }

   private:
    static constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
    uint64_t word_;
  };

  uint32_t create() noexcept;

  const int device_;
  const bool lent_;
  std::atomic<uint64_t> free_{0};  // Head
  std::atomic<uint32_t> created_{0};
  std::atomic<EventPair*> blocks_[kMaxBlocks] = {};
};

}  // namespace wanhook
