// Memory, as torch's allocators tell it.
//
// CUDA: a trace tracker on the caching allocator. torch calls it with the device's allocator lock held and offers no
// way to take it off again, so it is attached once a process, is gated by the recorder, and does nothing but copy
// fields: no CUDA call, no torch call, no lock, no GIL.
// CPU: a delegating c10::Allocator, set once, never taken back; only where there is no GPU to record.
#pragma once

#include <string>

#include "core/recording.h"

namespace wanhook {

// Call when CUDA is initialised (torch queues it with _lazy_call). Also makes this process time its streams. Throws
// std::runtime_error with the remedy when the allocator in use cannot be traced. Idempotent.
void attach_cuda_memory();
bool cuda_memory_attached() noexcept;
// The settings string that torch's allocators were given last. Only once CUDA is initialised: before, asking would fix
// what the program may still put into the environment.
std::string cuda_allocator_settings();

// Idempotent.
void attach_cpu_memory();
bool cpu_memory_attached() noexcept;
// Bytes and blocks that the CPU twin has handed out and not got back since it was attached.
struct CpuMemoryTotals {
  uint64_t allocations = 0;
  uint64_t frees = 0;
};
CpuMemoryTotals cpu_memory_totals() noexcept;

}  // namespace wanhook
