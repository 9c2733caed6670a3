#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace wanhook::replay {

// The columns of wanhook._replay.BLOCK_LIFE.
struct BlockLife {
  uint64_t address;
  int64_t size;
  int64_t requested;
  int64_t begin;
  int64_t freed;
  int64_t end;
  int64_t scope;
  uint64_t stream;
  int32_t segment;
};

// Rows that grow in place where the system can move pages: a vector would hold half of them twice while it grows.
template <class Row>
class GrowingRows {
 public:
  GrowingRows() = default;
  GrowingRows(const GrowingRows&) = delete;
  GrowingRows& operator=(const GrowingRows&) = delete;
  ~GrowingRows() { std::free(rows_); }

  size_t size() const noexcept { return size_; }
  Row& operator[](size_t row) noexcept { return rows_[row]; }

  void push_back(const Row& row) {
    if (size_ == room_) resize(room_ + room_ / 2 + 1024);
    rows_[size_++] = row;
  }

  // The rows are the caller's, to be given back with free().
  Row* release() {
    if (size_ > 0) resize(size_);
    room_ = 0;
    return std::exchange(rows_, nullptr);
  }

 private:
  void resize(size_t room) {
    void* moved = std::realloc(static_cast<void*>(rows_), room * sizeof(Row));
    if (moved == nullptr) throw std::bad_alloc();
    rows_ = static_cast<Row*>(moved);
    room_ = room;
  }

  Row* rows_ = nullptr;
  size_t size_ = 0;
  size_t room_ = 0;
};

}  // namespace wanhook::replay
