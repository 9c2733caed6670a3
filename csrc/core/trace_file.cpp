#include "core/trace_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/disk.h"

namespace wanhook {
namespace {

constexpr uint32_t kTooFewSlots = 16;  // a record with a long text left them, and its writer has another chunk
constexpr uint64_t kSmallestRange = kHeaderBytes + uint64_t{8} * kChunkBytes;

// Under `ulimit -v` the whole capacity may not fit into the address space: take what there is.
int map_as_much_as_possible(int fd, uint64_t* bytes, void** address) noexcept {
  int error = disk::map(fd, *bytes, address);
  while (error == ENOMEM && *bytes / 2 >= kSmallestRange) {
    *bytes /= 2;
    error = disk::map(fd, *bytes, address);
  }
  return error;
}

}  // namespace

int TraceFile::create(const std::string& path, uint64_t capacity_bytes, const FileHeader& header) {
  uint64_t bytes = std::max(std::min(capacity_bytes, disk::address_space_to_spare()), kSmallestRange);
  int error = disk::create(path, &fd_);
  if (error != 0) return error;
  void* address = nullptr;
  error = disk::allocate(fd_, 0, kHeaderBytes);
  if (error == 0) error = map_as_much_as_possible(fd_, &bytes, &address);
  if (error != 0) {
    ::close(fd_);
    ::unlink(path.c_str());
    fd_ = -1;
    return error;
  }
  capacity_chunks_ = static_cast<uint32_t>(std::min<uint64_t>((bytes - kHeaderBytes) / kChunkBytes, kIndexMask));
  header_ = static_cast<FileHeader*>(address);
  chunks_ = reinterpret_cast<Chunk*>(static_cast<unsigned char*>(address) + kHeaderBytes);
  *header_ = header;
  header_->capacity_bytes = kHeaderBytes + uint64_t{capacity_chunks_} * kChunkBytes;
  // What is no whole chunk would stay mapped after close(), one more mapping for each recording of the process.
  if (bytes > header_->capacity_bytes) {
    ::munmap(static_cast<unsigned char*>(address) + header_->capacity_bytes, bytes - header_->capacity_bytes);
  }
  return 0;
}

int TraceFile::prepare(uint32_t count) noexcept {
  for (; count > 0; --count) {
    if (prepare_error_ != 0) return prepare_error_;
    if (prepared_ == capacity_chunks_) return EFBIG;
    const uint64_t begin = kHeaderBytes + uint64_t{prepared_} * kChunkBytes;
    prepare_error_ = disk::allocate(fd_, begin, begin + kChunkBytes);
    if (prepare_error_ != 0) return prepare_error_;
    disk::populate(chunk(prepared_), kChunkBytes);
    ++prepared_;
    hand_out_.fetch_add(uint64_t{1} << kPreparedShift, std::memory_order_release);
  }
  return 0;
}

Chunk* TraceFile::acquire(ChunkType type) noexcept {
  uint64_t word = hand_out_.load(std::memory_order_acquire);
  do {
    const uint64_t next = word & kIndexMask;
    if ((word & kClosed) != 0 || next >= ((word >> kPreparedShift) & kIndexMask)) return nullptr;
  } while (!hand_out_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire));
  const auto index = static_cast<uint32_t>(word & kIndexMask);
  Chunk* taken = chunk(index);
  taken->header.sequence = index;
  taken->header.first_tick = tick_now();
  taken->header.type = static_cast<uint8_t>(type);
  __atomic_store_n(&taken->header.magic, kChunkMagic, __ATOMIC_RELEASE);
  return taken;
}

void TraceFile::release_full() noexcept {
  for (const uint32_t index : full_) ::madvise(chunk(index), kChunkBytes, MADV_DONTNEED);
  for (const uint32_t handed_out = used(); looked_at_ < handed_out; ++looked_at_) open_.push_back(looked_at_);
  const auto first_full = std::partition(open_.begin(), open_.end(), [this](uint32_t index) {
    return __atomic_load_n(&chunk(index)->header.count, __ATOMIC_RELAXED) + kTooFewSlots < kChunkRecords;
  });
  full_.assign(first_full, open_.end());
  open_.erase(first_full, open_.end());
}

uint32_t TraceFile::used() const noexcept {
  return static_cast<uint32_t>(hand_out_.load(std::memory_order_relaxed) & kIndexMask);
}

uint32_t TraceFile::ready() const noexcept {
  const uint64_t word = hand_out_.load(std::memory_order_relaxed);
  return static_cast<uint32_t>(((word >> kPreparedShift) & kIndexMask) - (word & kIndexMask));
}

void TraceFile::set_state(FileState state, uint32_t error) noexcept {
  __atomic_store_n(&header_->error, error, __ATOMIC_RELAXED);
  __atomic_store_n(&header_->state, static_cast<uint32_t>(state), __ATOMIC_RELEASE);
}

void TraceFile::add_dropped(uint64_t count) noexcept { __atomic_fetch_add(&header_->dropped, count, __ATOMIC_RELAXED); }

uint64_t TraceFile::dropped() const noexcept { return __atomic_load_n(&header_->dropped, __ATOMIC_RELAXED); }

void TraceFile::close() noexcept {
  const uint64_t word = hand_out_.fetch_or(kClosed, std::memory_order_acq_rel);
  if ((word & kClosed) != 0) return;
  const uint64_t used = word & kIndexMask;
  // Nobody holds an address behind the last chunk that was handed out, so that part may go; the rest must stay mapped,
  // and may not be cut off, for writers that passed the gate before it closed.
  const uint64_t tail = capacity_chunks_ - used;
  if (tail > 0) ::munmap(chunk(static_cast<uint32_t>(used)), tail * kChunkBytes);
  disk::truncate(fd_, kHeaderBytes + used * kChunkBytes);
  // Out of this process's resident memory; what a late writer still stores faults the page in again.
  ::madvise(header_, kHeaderBytes + used * kChunkBytes, MADV_DONTNEED);
  ::close(fd_);
  fd_ = -1;
}

}  // namespace wanhook
