// Fetches the cache line at an address for a store that comes later. Never faults.
//
// __builtin_prefetch() with the intent to write becomes a plain read on x86-64 without -mprfchw: a line that another
// core has written would be fetched once to look and a second time to store. Processors without the instruction ignore
// it.
#pragma once

namespace wanhook {

inline void fetch_ahead(const void* address) noexcept {
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));
#else
  __builtin_prefetch(address, 1);
#endif
}

}  // namespace wanhook
