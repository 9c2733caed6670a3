// Calls that are launched together, between ncclGroupStart and ncclGroupEnd.
//
// Starting and ending a group are no operators, so the Python integration tells of them. Inside, each call is recorded
// as a member, without a time: nothing runs before the group ends, and the events of a member's Work mean nothing. The
// group's own record (op "coalesced", kCollectiveGroup) is written when it is ended, and has the time. All of it is
// about the calling thread. Groups inside groups are launched with the outermost, and recorded as one with it.
#pragma once

#include <cstdint>

#include "core/recording.h"
#include "hooks/process_groups.h"

namespace wanhook {

struct CoalescedCalls {
  uint32_t depth;        // groups that are open; 0: calls are launched one by one
  bool numbered_here;    // no coalescing manager around it has given a number
  KnownGroup* group;     // of the first member
  uint32_t members;      // recorded ones
  CollectiveRecord sum;  // the first member, with the bytes of all
  uint8_t all;           // flags that all recorded members have, and those that any has
  uint8_t any;
};

extern __thread CoalescedCalls coalesced_calls;

// What a thread's collectives are numbered with inside a coalescing manager; returns the number before.
uint32_t enter_coalesced() noexcept;
// Also forgets a group that an exception has left open.
void leave_coalesced(uint32_t previous) noexcept;

void open_coalesced() noexcept;
void join_coalesced(const CollectiveRecord& member) noexcept;

// The call that ends and launches a group; a record only when it is the outermost and has recorded members.
class CoalescedLaunch {
 public:
  CoalescedLaunch() noexcept;
  // Before the destructor when the call has come back; `work` is null for a synchronous group.
  void returned(c10d::Work* work) noexcept;
  ~CoalescedLaunch();
  CoalescedLaunch(const CoalescedLaunch&) = delete;
  CoalescedLaunch& operator=(const CoalescedLaunch&) = delete;

 private:
  CollectiveRecord describe(const CoalescedCalls& calls) noexcept;

  Recording* recording_ = nullptr;  // null: nothing is recorded
  CollectiveRecord record_{};
  uint32_t timer_ = 0;
  uint8_t end_flags_ = 0;
  CollectivePhase phase_ = CollectivePhase::kFailed;
};

}  // namespace wanhook
