#pragma once

#include <cstdint>
#include <vector>

namespace wanhook::replay {

// Address -> block number, open addressing with linear probing; block number 0 is "none".
class AddressIndex {
 public:
  AddressIndex() : slots_(kFirstSlots), mask_(kFirstSlots - 1) {}

  uint32_t find(uint64_t address) const noexcept {
    for (uint64_t at = home(address);; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.block == 0 || slot.address == address) return slot.block;
    }
  }

  // Adds an address, or gives it another block.
  void set(uint64_t address, uint32_t block) {
    uint64_t at = home(address);
    while (slots_[at].block != 0 && slots_[at].address != address) at = (at + 1) & mask_;
    if (slots_[at].block == 0 && ++used_ * 2 > slots_.size()) {
      grow();
      return place(address, block);
    }
    slots_[at] = {address, block};
  }

  void erase(uint64_t address) noexcept {
    uint64_t hole = home(address);
    while (slots_[hole].address != address || slots_[hole].block == 0) {
      if (slots_[hole].block == 0) return;
      hole = (hole + 1) & mask_;
    }
    --used_;
    // What stands behind the hole moves up, so that no probe stops too early.
    for (uint64_t at = (hole + 1) & mask_; slots_[at].block != 0; at = (at + 1) & mask_) {
      if (((at - home(slots_[at].address)) & mask_) < ((at - hole) & mask_)) continue;
      slots_[hole] = slots_[at];
      hole = at;
    }
    slots_[hole].block = 0;
  }

 private:
  struct Slot {
    uint64_t address = 0;
    uint32_t block = 0;
  };
  static constexpr uint64_t kFirstSlots = 1024;  // a power of two, as all sizes

  uint64_t home(uint64_t address) const noexcept {
    const uint64_t mixed = address * 0x9e3779b97f4a7c15u;
    return (mixed ^ (mixed >> 32)) >> 7 & mask_;
  }

  void place(uint64_t address, uint32_t block) noexcept {
    uint64_t at = home(address);
    while (slots_[at].block != 0) at = (at + 1) & mask_;
    slots_[at] = {address, block};
  }

  void grow() {
    std::vector<Slot> before(slots_.size() * 2);
    before.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& slot : before) {
      if (slot.block != 0) place(slot.address, slot.block);
    }
  }

  std::vector<Slot> slots_;
  uint64_t mask_;
  uint64_t used_ = 0;
};

}  // namespace wanhook::replay
