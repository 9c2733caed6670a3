#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "replay/address_index.h"
#include "replay/block.h"
#include "replay/free_heap.h"
#include "replay/segment.h"

namespace wanhook::replay {

// Contiguous mapped memory: a whole segment, or a piece of an expandable one. snapshot() calls these segments.
struct Run {
  uint64_t end;
  uint32_t tail;     // its last block; the one at its start is found by address
  uint32_t segment;
};

// The blocks and segments of one device, kept by torch's rules for splitting and merging: the blocks of a run tile it,
// and no two free blocks of a run are neighbours. It trusts its callers; what events say is checked by Model.
//
// Of two blocks that become one the upper one's number stays, and of a block that is split the upper part keeps it, so
// that a run's tail and the order of the wide free blocks survive both.
class BlockMap {
 public:
  using Runs = std::map<uint64_t, Run>;  // by first address

  explicit BlockMap(bool keep_largest_free)
      : blocks_(1), segments_(1), heap_(blocks_), wide_(ByAddress{&blocks_}), keep_largest_free_(keep_largest_free) {}
  BlockMap(const BlockMap&) = delete;
  BlockMap& operator=(const BlockMap&) = delete;

  Block& operator[](uint32_t block) noexcept { return blocks_[block]; }
  const Block& operator[](uint32_t block) const noexcept { return blocks_[block]; }
  uint32_t find(uint64_t address) const noexcept { return index_.find(address); }  // kNone unless a block begins there
  Runs& runs() noexcept { return runs_; }
  std::vector<Segment>& segments() noexcept { return segments_; }  // row 0 stands for none
  uint32_t root(uint32_t segment) noexcept;  // the segment that it is, or turned out to be a part of
  uint32_t segment_of(uint32_t block) noexcept { return root(blocks_[block].segment); }

  uint64_t block_count() const noexcept { return blocks_.size() - 1 - unused_.size(); }
  uint64_t reserved() const noexcept { return reserved_; }
  uint64_t inactive_split() const noexcept { return inactive_split_; }
  uint64_t largest_free() const noexcept { return heap_.largest(); }

  // The run that holds an address; runs().end() when none does.
  Runs::iterator run_at(uint64_t address) noexcept;
  // The first run that reaches beyond an address.
  Runs::iterator run_from(uint64_t address) noexcept;
  // The free block of at least a small segment's size that holds an address in an expandable segment.
  uint32_t wide_free_at(uint64_t address) const noexcept;

  // The first `size` bytes of a free block become an allocated block: its number.
  uint32_t take(uint32_t block, uint64_t size);
  // An active block becomes free and one with its free neighbours: the number of what it is now part of.
  uint32_t release(uint32_t block);
  // Cuts a block in two at `address`; the lower part's number. Both are in the state of the block, and free parts are
  // left unmerged: only for putting a contradiction right, and for snapshots.
  uint32_t cut(uint32_t block, uint64_t address);

  uint32_t add_segment(const Segment& segment);
  // A new run of one free block, that block's number. The range must be free of other runs.
  uint32_t add_run(uint64_t address, uint64_t size, uint32_t segment);
  // Maps memory of an expandable segment, a new one unless it joins what is mapped beside it: the free block it is in.
  uint32_t map(uint64_t address, uint64_t size, const Segment& segment);
  // Takes [address, address + size) out of the free block that holds it.
  void unmap(uint32_t block, uint64_t address, uint64_t size, uint64_t position);
  // Takes a whole run away, whatever its blocks are.
  void drop(Runs::iterator run, uint64_t position);
  void clear(uint64_t position);

  // Blocks of a host allocator: in no segment, never split.
  uint32_t add_lone(uint64_t address, uint64_t size);
  void remove_lone(uint32_t block);
  std::vector<uint32_t> lone_blocks() const;  // by address

 private:
  struct Address {
    uint64_t value;
  };
  struct ByAddress {
    using is_transparent = void;
    const std::vector<Block>* blocks;
    uint64_t at(uint32_t block) const noexcept { return (*blocks)[block].address; }
    bool operator()(uint32_t left, uint32_t right) const noexcept { return at(left) < at(right); }
    bool operator()(Address left, uint32_t right) const noexcept { return left.value < at(right); }
    bool operator()(uint32_t left, Address right) const noexcept { return at(left) < right.value; }
  };

  uint32_t new_block(uint64_t address, uint64_t size, uint32_t segment);
  void forget(uint32_t block) noexcept;
  void join(uint32_t first, uint32_t second);
  void shrink(uint32_t segment, uint64_t bytes, uint64_t position) noexcept;
  uint32_t merge_below(uint32_t block);
  void link(uint32_t below, uint32_t above) noexcept;
  bool are_one(uint32_t first, uint32_t second) noexcept;
  void enter_free(uint32_t block);
  void leave_free(uint32_t block);
  void free_resized(uint32_t block);
  void place_wide(uint32_t block);
  bool is_split(const Block& block) const noexcept {
    return block.is_free() && !block.expandable && (block.prev | block.next) != kNone;
  }
  void count_split(uint32_t block) noexcept { inactive_split_ += is_split(blocks_[block]) ? blocks_[block].size : 0; }
  void uncount_split(uint32_t block) noexcept { inactive_split_ -= is_split(blocks_[block]) ? blocks_[block].size : 0; }

  std::vector<Block> blocks_;
  std::vector<uint32_t> unused_;
  std::vector<Segment> segments_;
  AddressIndex index_;
  FreeHeap heap_;
  std::set<uint32_t, ByAddress> wide_;
  Runs runs_;
  uint64_t reserved_ = 0;
  uint64_t inactive_split_ = 0;
  bool keep_largest_free_;
};

}  // namespace wanhook::replay
