// Lets any thread wake one sleeping thread, without ever blocking itself. Sleeps are measured on CLOCK_MONOTONIC.
//
// A futex, because sem_timedwait follows CLOCK_REALTIME, which may jump, and sem_clockwait needs a newer C library than
// torch does.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace wanhook {

class WakeUp {
 public:
  // One system call at most, and none when the sleeper has been woken already.
  void wake() noexcept {
    if (pending_.exchange(1, std::memory_order_release) == 0) futex(FUTEX_WAKE_PRIVATE, 1, nullptr);
  }

  // Until wake() or the time is over; returns at once when wake() came before.
  void sleep(int64_t nanoseconds) noexcept {
    const timespec relative{static_cast<time_t>(nanoseconds / 1'000'000'000),
                            static_cast<long>(nanoseconds % 1'000'000'000)};
    if (pending_.load(std::memory_order_acquire) == 0) futex(FUTEX_WAIT_PRIVATE, 0, &relative);
    pending_.store(0, std::memory_order_release);
  }

 private:
  void futex(int operation, uint32_t value, const timespec* timeout) noexcept {
    static_assert(sizeof(pending_) == sizeof(uint32_t));
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&pending_), operation, value, timeout, nullptr, 0);
  }

  std::atomic<uint32_t> pending_{0};
};

}  // namespace wanhook
