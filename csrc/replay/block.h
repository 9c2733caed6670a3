#pragma once

#include <cstdint>

#include "core/record.h"

namespace wanhook::replay {

inline constexpr uint32_t kNone = 0;  // block number: there is none

// Stand in for the scope of blocks that no event of the recording allocated.
inline constexpr uint32_t kBeforeRecording = UINT32_MAX;
inline constexpr uint32_t kNotRecorded = UINT32_MAX - 1;

inline int64_t scope_number(uint32_t scope) noexcept {
  return scope >= kNotRecorded ? static_cast<int64_t>(scope) - (int64_t{1} << 32) : scope;
}

// A piece of a segment. The blocks of a run of mapped memory are linked in order of their addresses and tile it.
struct Block {
  uint64_t address = 0;
  uint64_t size = 0;
  uint64_t requested = 0;
  uint32_t prev = kNone;
  uint32_t next = kNone;
  uint32_t segment = 0;
  uint32_t life = 0;        // row of its life, while it is allocated or waits for its free
  uint32_t heap_place = 0;  // while it is free
  uint32_t scope = 0;
  uint8_t state = 0;        // BlockState; 0: not in use
  bool expandable = false;
  bool wide = false;        // one of the wide free blocks

  bool is_free() const noexcept { return state == static_cast<uint8_t>(BlockState::kInactive); }
  bool is_allocated() const noexcept { return state == static_cast<uint8_t>(BlockState::kAllocated); }
  bool is_active() const noexcept { return state != 0 && !is_free(); }
  uint64_t end() const noexcept { return address + size; }
};

}  // namespace wanhook::replay
