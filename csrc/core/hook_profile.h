// What the hooks cost inside a real program, whose code and data keep pushing ours out of the caches. A build with
// -DWANHOOK_PROFILE_HOOKS counts the ticks of each call by part of a hook (benchmarks/wan22/hook_profile.py); one with
// -DWANHOOK_LEAVE_OUT can do without a part (steps.py), and reads no clock for it. Otherwise nothing.
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
  kWrapperBefore,  // in a native call: before the function that is wrapped, and after; scopes begin and end in it
  kWrapperAfter,
  kEmpty,         // what reading the clock twice costs by itself
  kCount,
};

#if defined(WANHOOK_PROFILE_HOOKS)

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

// A native call of a Python function, without what it calls.
class CallTimer {
 public:
  ~CallTimer() {
    if (gone_) note_hook_time(HookPart::kWrapperAfter, began_);
  }
  void goes_out() const noexcept {
    note_hook_time(HookPart::kWrapperBefore, began_);
    gone_ = true;
  }
  void is_back() const noexcept { began_ = tick_now(); }

 private:
  mutable uint64_t began_ = tick_now();
  mutable bool gone_ = false;
};

#define WANHOOK_CALL_TIMER(timer) \
  ::wanhook::CallTimer timer {}
#define WANHOOK_CALL_GOES_OUT(timer) timer.goes_out()
#define WANHOOK_CALL_IS_BACK(timer) timer.is_back()
#define WANHOOK_TIME_HOOK(part) const ::wanhook::HookTimer hook_timer(part)
#define WANHOOK_HOOK_BEGINS(began) const uint64_t began = ::wanhook::tick_now()
#define WANHOOK_HOOK_ENDS(part, began) ::wanhook::note_hook_time(part, began)

#else

#define WANHOOK_CALL_TIMER(timer) static_assert(true)
#define WANHOOK_CALL_GOES_OUT(timer) static_cast<void>(0)
#define WANHOOK_CALL_IS_BACK(timer) static_cast<void>(0)
#define WANHOOK_TIME_HOOK(part) static_cast<void>(0)
#define WANHOOK_HOOK_BEGINS(began) static_cast<void>(0)
#define WANHOOK_HOOK_ENDS(part, began) static_cast<void>(0)

#endif

// What is left out of a recording for some steps, to see what it costs from end to end. Bits.
enum LeftOut : uint32_t { kNoGpuEvents = 1, kNoAllocator = 2, kNoCollectives = 4, kNoScopes = 8, kNoResolver = 16 };

#if defined(WANHOOK_LEAVE_OUT)

inline std::atomic<uint32_t> left_out{0};

#define WANHOOK_LEFT_OUT(part) ((::wanhook::left_out.load(std::memory_order_relaxed) & (part)) != 0)

#else

#define WANHOOK_LEFT_OUT(part) false

#endif

}  // namespace wanhook
