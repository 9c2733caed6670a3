// One trace file on disk: a header page and chunks, mapped once at an address that never changes.
//
// Threads: prepare(), release_full() and close() belong to one thread at a time (the resolver, or whoever finishes the
// recording); acquire() may be called by any thread at any time, also after close(), and never blocks or calls the
// system.
// Lifetime: chunks that were handed out stay mapped until the process ends, because a writer may still be in one.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "core/record.h"

namespace wanhook {

// A chunk in the mapping: header slot and records.
struct Chunk {
  ChunkHeader header;
  unsigned char records[kChunkRecords][kRecordBytes];
};
static_assert(sizeof(Chunk) == kChunkBytes);

class TraceFile {
 public:
  TraceFile() = default;
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  // Creates the file, reserves the address range and writes the header. Returns 0 or errno. The reserved range, and
  // with it the capacity, is made smaller when the address space is limited.
  int create(const std::string& path, uint64_t capacity_bytes, const FileHeader& header);

  // Makes `count` more chunks ready for writers. Returns 0, or errno when the disk gives no more room (sticky), or
  // EFBIG at the file's own capacity.
  int prepare(uint32_t count) noexcept;

  // A fresh chunk for one writer, or null when none is ready or the file is closed.
  Chunk* acquire(ChunkType type) noexcept;

  // Takes chunks that were full at the last call already out of this process's page tables; the file keeps them. While
  // a page is mapped, the kernel interrupts every thread of the program when it writes that page to the disk, and write
  // protects it. A store that comes late all the same faults the page in again.
  void release_full() noexcept;

  uint32_t ready() const noexcept;
  uint32_t used() const noexcept;
  uint32_t capacity_chunks() const noexcept { return capacity_chunks_; }
  bool at_capacity() const noexcept { return prepared_ == capacity_chunks_; }
  int prepare_error() const noexcept { return prepare_error_; }
  FileHeader* header() noexcept { return header_; }

  void set_state(FileState state, uint32_t error) noexcept;
  void add_dropped(uint64_t count) noexcept;
  uint64_t dropped() const noexcept;

  // No chunk is handed out from here on; what was prepared in vain is given back to the disk.
  void close() noexcept;

 private:
  // One word, so that "is one ready, and is the file open" is decided together with taking it: bits 0..30 next chunk
  // to hand out, bits 31..61 chunks prepared, bit 62 closed.
  static constexpr uint64_t kPreparedShift = 31;
  static constexpr uint64_t kIndexMask = (uint64_t{1} << 31) - 1;
  static constexpr uint64_t kClosed = uint64_t{1} << 62;

  Chunk* chunk(uint32_t index) const noexcept { return chunks_ + index; }

  int fd_ = -1;
  FileHeader* header_ = nullptr;
  Chunk* chunks_ = nullptr;
  uint32_t capacity_chunks_ = 0;
  uint32_t prepared_ = 0;
  int prepare_error_ = 0;
  uint32_t looked_at_ = 0;  // chunks that release_full() has seen
  std::vector<uint32_t> open_;  // of these, those that were not full, and those that were
  std::vector<uint32_t> full_;
  std::atomic<uint64_t> hand_out_{0};
};

}  // namespace wanhook
