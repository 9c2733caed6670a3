// Host clocks. A tick is the cheapest monotonic reading the machine has; anchors map it to CLOCK_MONOTONIC afterwards.
#pragma once

#include <time.h>

#include <cstdint>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace wanhook {

inline int64_t read_clock(clockid_t clock) noexcept {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The same counter as c10::getApproximateTime() on x86-64, so ticks of torch's trace entries can be stored as they are.
inline uint64_t tick_now() noexcept {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return static_cast<uint64_t>(read_clock(CLOCK_MONOTONIC));
#endif
}

// Both wall clocks, read between two ticks.
struct ClockReading {
  uint64_t tick = 0;
  uint64_t tick_after = 0;
  int64_t monotonic = 0;
  int64_t realtime = 0;
};

// The tightest of a few readings: an interrupt between two of the calls must not become an error of the anchor.
inline ClockReading read_clocks() noexcept {
  ClockReading best;
  for (int attempt = 0; attempt < 5; ++attempt) {
    ClockReading reading;
    reading.tick = tick_now();
    reading.monotonic = read_clock(CLOCK_MONOTONIC);
    reading.realtime = read_clock(CLOCK_REALTIME);
    reading.tick_after = tick_now();
    if (attempt == 0 || reading.tick_after - reading.tick < best.tick_after - best.tick) best = reading;
  }
  return best;
}

}  // namespace wanhook
