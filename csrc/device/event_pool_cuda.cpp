#include <new>

#include "core/fetch_ahead.h"
#include "device/event_pool.h"

namespace wanhook {

uint32_t EventPool::take() noexcept {
  uint64_t word = free_.load(std::memory_order_acquire);
  while (Head(word).first() != 0) {
    const Head head(word);
    const uint32_t index = head.first() - 1;
    const uint32_t next = pair(index).next.load(std::memory_order_relaxed);
    const uint64_t replaced = head.then(next, head.ready() - 1);
    if (!free_.compare_exchange_weak(word, replaced, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    // The resolver's core wrote that line last: have it here when it is the next one's turn.
    if (next != 0) fetch_ahead(&pair(next - 1));
    return index;
  }
  return create();
}

void EventPool::put_back(uint32_t index) noexcept {
  uint64_t word = free_.load(std::memory_order_relaxed);
  uint64_t replaced = 0;
  do {
    const Head head(word);
    pair(index).next.store(head.first(), std::memory_order_relaxed);
    replaced = head.then(index + 1, head.ready() + 1);
  } while (!free_.compare_exchange_weak(word, replaced, std::memory_order_acq_rel, std::memory_order_relaxed));
}

void EventPool::refill(uint32_t count) noexcept {
  while (ready() < count) {
    const uint32_t index = create();
    if (index == kNone) return;
    put_back(index);
  }
}

uint32_t EventPool::create() noexcept {
  const uint32_t index = created_.fetch_add(1, std::memory_order_relaxed);
  if (index >= kBlockPairs * kMaxBlocks) {
    created_.fetch_sub(1, std::memory_order_relaxed);
    return kNone;
  }
  std::atomic<EventPair*>& block = blocks_[index / kBlockPairs];
  if (block.load(std::memory_order_acquire) == nullptr) {
    auto* fresh = new (std::nothrow) EventPair[kBlockPairs];
    EventPair* expected = nullptr;
    if (fresh == nullptr || !block.compare_exchange_strong(expected, fresh)) delete[] fresh;
    if (block.load(std::memory_order_acquire) == nullptr) return kNone;
  }
  EventPair& created = pair(index);
  created.device = static_cast<int8_t>(device_);
  if (lent_) return index;
  if (cudaEventCreate(&created.begin) == cudaSuccess && cudaEventCreate(&created.end) == cudaSuccess) return index;
  cudaGetLastError();  // ours, not the host program's
  return kNone;        // this index is lost; a device that cannot create events has worse problems
}

}  // namespace wanhook
