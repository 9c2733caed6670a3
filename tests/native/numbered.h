// Records that carry their writer's number, a running number and a check of both, so that a reader can tell a whole
// record from a torn or foreign one. tests/integration/test_kill.py computes the same check.
//
// Number n of a writer is an allocator event; every kMarkEvery-th one is a mark whose text holds the number again.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "core/clock.h"
#include "core/recording.h"

namespace wanhook::test {

inline constexpr uint64_t kMarkEvery = 16;

inline bool is_mark(uint64_t number) noexcept { return number % kMarkEvery == 0; }

inline uint64_t check_of(uint32_t writer, uint64_t number) noexcept {
  return number * 0x9e3779b97f4a7c15ull ^ (writer + 1) * 0xbf58476d1ce4e5b9ull;
}

inline AllocatorRecord make_event(uint32_t writer, uint64_t number) noexcept {
  const uint64_t check = check_of(writer, number);
  AllocatorRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kAllocator);
  record.action = static_cast<uint8_t>(AllocatorAction::kAlloc);
  record.device = static_cast<int8_t>(writer);
  record.tick = tick_now();
  record.sequence = number;
  record.address = check;
  record.size = ~check;
  record.stream = check >> 7;
  record.pool = static_cast<uint32_t>(check);
  record.scope = static_cast<uint32_t>(check >> 32);
  return record;
}

inline bool is_whole(const AllocatorRecord& record) noexcept {
  const uint64_t check = check_of(static_cast<uint32_t>(record.device), record.sequence);
  return record.action == static_cast<uint8_t>(AllocatorAction::kAlloc) && record.tick != 0 &&
         record.address == check && record.size == ~check && record.stream == check >> 7 &&
         record.pool == static_cast<uint32_t>(check) && record.scope == static_cast<uint32_t>(check >> 32);
}

// Up to three Text records long; valid JSON, because a reader parses it.
inline std::string make_text(uint32_t writer, uint64_t number) {
  const std::string fill(static_cast<size_t>(number / kMarkEvery % 140), static_cast<char>('a' + writer));
  return "{\"writer\":" + std::to_string(writer) + ",\"number\":" + std::to_string(number) + ",\"fill\":\"" + fill +
         "\"}";
}

inline MarkRecord make_mark(uint32_t writer, uint64_t number, uint32_t name, size_t text_bytes) noexcept {
  MarkRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kMark);
  record.name = name;
  record.tick = tick_now();
  record.scope = static_cast<uint32_t>(check_of(writer, number));
  record.request = static_cast<uint32_t>(number);
  record.text_bytes = static_cast<uint32_t>(text_bytes);
  return record;
}

// What one number takes in slots when it is dropped.
inline uint32_t slots_of(uint32_t writer, uint64_t number) {
  return is_mark(number) ? slots_for_text(make_text(writer, number).size()) : 1;
}

// False when the record was dropped.
inline bool append_numbered(Recording* recording, uint32_t writer, uint64_t number, uint32_t name) {
  if (!is_mark(number)) return recording->append(make_event(writer, number)) != nullptr;
  const std::string text = make_text(writer, number);
  return recording->append(make_mark(writer, number, name, text.size()), text);
}

}  // namespace wanhook::test
