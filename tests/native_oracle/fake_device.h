// A device that exists only on paper: fake_cuda.cpp answers torch's calls of the CUDA runtime and driver from it.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>

#include "../made_gpu/addresses.h"

namespace wanhook::test {

class FakeDevice {
 public:
  static FakeDevice& get();
  FakeDevice() {
    allocations.give(uint64_t{0x7f0000000000}, uint64_t{1} << 40);
    reservations.give(uint64_t{0x200000000}, uint64_t{1} << 44);
  }

  uint64_t total = uint64_t{8} << 30;
  uint64_t used = 0;
  made_gpu::Addresses allocations;
  made_gpu::Addresses reservations;
  std::unordered_map<uint64_t, uint64_t> handles;  // physical memory: handle -> bytes
  uint64_t next_handle = 1;
  int last_error = 0;

  bool take(uint64_t bytes) {
    if (bytes > total - used) return false;
    used += bytes;
    return true;
  }

  // Events: how far the host has issued on a stream, and how far the device has got.
  struct Stream {
    uint64_t issued = 0;
    uint64_t done = 0;
  };
  struct Event {
    const void* stream = nullptr;
    uint64_t number = 0;
  };
  std::unordered_map<const void*, Stream> streams;
  uint64_t events_alive = 0;

  bool is_done(const Event& event) { return streams[event.stream].done >= event.number; }
  void finish(const Event& event) {
    Stream& stream = streams[event.stream];
    if (stream.done < event.number) stream.done = event.number;
  }
  void finish_all() {
    for (auto& [name, stream] : streams) stream.done = stream.issued;
  }
};

}  // namespace wanhook::test
