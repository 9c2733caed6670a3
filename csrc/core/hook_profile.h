// Where the hooks' host time goes inside a real program, whose code and data keep pushing ours out of the caches: the
// ticks of each call by part of a hook. Only in a build with -DWANHOOK_PROFILE_HOOKS
// (benchmarks/wan22/hook_profile.py, steps.py); otherwise nothing.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/clock.h"

namespace wanhook {

enum class HookPart : uint8_t {
  kAllocatorEntry,
  kCollectiveBefore,  // all that happens before the operator runs, with the begin event
  kCollectiveAfter,
  kScopeBegin,
  kScopeEnd,
  kMemorySample,  // inside the two above
  kBeginEvent,    // inside collectives and scopes: the driver's part, cudaEventRecord alone
  kEndEvent,
  kEmpty,         // what reading the clock twice costs by itself
  kCount,
};

// What a profile leaves out of a recording for some steps, to see what it costs from end to end. Bits.
enum LeftOut : uint32_t { kNoGpuEvents = 1, kNoAllocator = 2, kNoCollectives = 4, kNoScopes = 8 };

#if defined(WANHOOK_PROFILE_HOOKS)

inline std::atomic<uint32_t> left_out{0};

struct HookTime {
  static constexpr size_t kKept = 1 << 17;
  size_t calls;
  std::array<uint32_t, kKept> ticks;  // of the first calls
};

// One thread's at a time is right; the programs that are profiled have one that matters.
inline std::array<HookTime, static_cast<size_t>(HookPart::kCount)> hook_times{};

inline void note_hook_time(HookPart part, uint64_t began) noexcept {
  HookTime& time = hook_times[static_cast<size_t>(part)];
  if (time.calls < HookTime::kKept) time.ticks[time.calls] = static_cast<uint32_t>(tick_now() - began);
  ++time.calls;
}

class HookTimer {
 public:
  explicit HookTimer(HookPart part) noexcept : part_(part), began_(tick_now()) {}
  ~HookTimer() { note_hook_time(part_, began_); }
  HookTimer(const HookTimer&) = delete;
  HookTimer& operator=(const HookTimer&) = delete;

 private:
  HookPart part_;
  uint64_t began_;
};

#define WANHOOK_TIME_HOOK(part) const ::wanhook::HookTimer hook_timer(part)
#define WANHOOK_HOOK_BEGINS(began) const uint64_t began = ::wanhook::tick_now()
#define WANHOOK_HOOK_ENDS(part, began) ::wanhook::note_hook_time(part, began)
#define WANHOOK_LEFT_OUT(part) ((::wanhook::left_out.load(std::memory_order_relaxed) & (part)) != 0)

#else

#define WANHOOK_TIME_HOOK(part) static_cast<void>(0)
#define WANHOOK_HOOK_BEGINS(began) static_cast<void>(0)
#define WANHOOK_HOOK_ENDS(part, began) static_cast<void>(0)
#define WANHOOK_LEFT_OUT(part) false

#endif

}  // namespace wanhook
