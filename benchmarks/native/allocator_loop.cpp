// Allocates and frees through torch's CUDA caching allocator in a loop, as tensors do, without Python around each pair.
#include <c10/cuda/CUDACachingAllocator.h>

#include <chrono>

// A tracker that does nothing: what is left is what torch itself takes to make an entry and hand it over.
extern "C" void attach_empty_tracker() {
  c10::cuda::CUDACachingAllocator::get()->attachAllocatorTraceTracker(
      [](const c10::cuda::CUDACachingAllocator::TraceEntry&) {});
}

// ns of one alloc and free of `bytes`, over `count` of them; negative when the allocator refused.
extern "C" double allocator_loop(size_t bytes, long count) {
  namespace caching = c10::cuda::CUDACachingAllocator;
  try {
    const auto begin = std::chrono::steady_clock::now();
    for (long index = 0; index < count; ++index) caching::raw_delete(caching::raw_alloc(bytes));
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - begin;
    return spent.count() / static_cast<double>(count);
  } catch (...) {
    return -1;
  }
}
