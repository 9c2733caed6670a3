// Appends records to one chunk at a time. One owner at a time: a thread, or whoever holds the mutex that guards it.
//
// Memory order: a record's bytes are written first, then the chunk's count is stored with release order. A reader that
// loads the count with acquire order sees whole records only, in this process, in another one, and in the file after a
// crash.
#pragma once

#include <cstring>
#include <new>
#include <string_view>

#include "core/fetch_ahead.h"
#include "core/record.h"
#include "core/trace_file.h"

namespace wanhook {

// Records that carry `bytes` of text take this many slots.
constexpr uint32_t slots_for_text(size_t bytes) noexcept {
  return 1 + static_cast<uint32_t>((bytes + kTextBytes - 1) / kTextBytes);
}

// The longest text one record may carry; longer ones are split or clipped by the caller.
inline constexpr size_t kMaxTextBytes = 64 * 1024;
static_assert(slots_for_text(kMaxTextBytes) + 1 < kChunkRecords);

class ChunkWriter {
 public:
  bool has_room(uint32_t slots) const noexcept { return chunk_ != nullptr && kChunkRecords - count_ >= slots; }
  Chunk* chunk() const noexcept { return chunk_; }

  // Continues behind what the chunk already holds.
  void bind(Chunk* chunk) noexcept {
    chunk_ = chunk;
    count_ = chunk == nullptr ? 0 : chunk->header.count;
  }

  // Needs has_room(1). The record's place stays valid for the life of the process.
  template <class Record>
  Record* put(const Record& record) noexcept {
    static_assert(sizeof(Record) == kRecordBytes);
    unsigned char* slot = chunk_->records[count_];
    std::memcpy(slot, &record, kRecordBytes);
    publish(count_ + 1);
    return reinterpret_cast<Record*>(slot);
  }

  // The same without a copy: `fill` gets the zeroed record where it will lie. A record put together on the stack is
  // copied by loads wider than the stores that made it, and those wait for every store before them, also of a line
  // that is far away. `fill` may not put anything itself.
  template <class Record, class Fill>
  Record* make(const Fill& fill) noexcept {
    static_assert(sizeof(Record) == kRecordBytes);
    auto* record = new (chunk_->records[count_]) Record{};
    fill(*record);
    publish(count_ + 1);
    return record;
  }

  // Fetches the lines that the next put() writes.
  void expect() const noexcept {
    if (chunk_ == nullptr) return;
    fetch_ahead(&chunk_->header.count);
    fetch_place(count_);
  }

  // Needs has_room(slots_for_text(text.size())); the record and its text are published together.
  template <class Record>
  void put(const Record& record, std::string_view text) noexcept {
    std::memcpy(chunk_->records[count_], &record, kRecordBytes);
    uint32_t next = count_ + 1;
    while (!text.empty()) {
      TextRecord piece{};
      piece.kind = static_cast<uint8_t>(Kind::kText);
      piece.bytes = static_cast<uint16_t>(text.size() < kTextBytes ? text.size() : kTextBytes);
      std::memcpy(piece.text, text.data(), piece.bytes);
      std::memcpy(chunk_->records[next++], &piece, kRecordBytes);
      text.remove_prefix(piece.bytes);
    }
    publish(next);
  }

 private:
  void publish(uint32_t count) noexcept {
    count_ = count;
    __atomic_store_n(&chunk_->header.count, count, __ATOMIC_RELEASE);
    // Nobody has touched the next record's line since the page was made. Behind the last one lies the next chunk, or
    // nothing: a prefetch does not fault.
    fetch_place(count);
  }

  void fetch_place(uint32_t index) const noexcept {
    fetch_ahead(reinterpret_cast<const unsigned char*>(chunk_) + size_t{kRecordBytes} * (index + 1));
  }

  // No initialisers: this type must stay trivial for ThreadState. Zeroed memory is the unbound state.
  Chunk* chunk_;
  uint32_t count_;
};

}  // namespace wanhook
