#include "hooks/coalesced_group.h"

#include <algorithm>

#include "core/clock.h"
#include "core/recorder.h"
#include "device/span_timer.h"
#include "hooks/completion.h"
#include "hooks/nccl_events.h"
#include "hooks/streams.h"

namespace wanhook {

__thread CoalescedCalls coalesced_calls;

namespace {

std::atomic<uint32_t> numbers{0};

uint32_t next_number() noexcept {
  const uint32_t number = numbers.fetch_add(1, std::memory_order_relaxed) + 1;
  return number != 0 ? number : next_number();
}

uint16_t group_op() noexcept {
  static const uint32_t id = Recorder::get().intern("coalesced");
  return static_cast<uint16_t>(id);
}

}  // namespace

uint32_t enter_coalesced() noexcept {
  const uint32_t previous = thread_state.coalesced;
  thread_state.coalesced = next_number();
  return previous;
}

void leave_coalesced(uint32_t previous) noexcept {
  thread_state.coalesced = previous;
  if (previous == 0) coalesced_calls = {};
}

void open_coalesced() noexcept {
  CoalescedCalls& calls = coalesced_calls;
  if (calls.depth++ > 0) return;
  calls = {};
  calls.depth = 1;
  calls.numbered_here = thread_state.coalesced == 0;
  if (calls.numbered_here) thread_state.coalesced = next_number();
}

void join_coalesced(const CollectiveRecord& member) noexcept {
  CoalescedCalls& calls = coalesced_calls;
  if (calls.members++ == 0) {
    calls.sum = member;
    calls.all = calls.any = member.flags;
    return;
  }
  calls.all &= member.flags;
  calls.any |= member.flags;
  calls.sum.bytes_in += member.bytes_in;
  calls.sum.bytes_out += member.bytes_out;
  if (calls.sum.dtype != member.dtype) calls.sum.dtype = 255;
}

CollectiveRecord CoalescedLaunch::describe(const CoalescedCalls& calls) noexcept {
  CollectiveRecord record = calls.sum;
  record.op = group_op();
  record.role = thread_state.role;
  record.peer = -1;
  record.tensors = static_cast<uint16_t>(std::min<uint32_t>(calls.members, UINT16_MAX));
  record.coalesced = thread_state.coalesced;
  record.flags = kCollectiveCoalesced | kCollectiveGroup;
  record.flags |= calls.all & kCollectiveP2p;
  record.flags |= calls.any & (kCollectiveAsync | kCollectiveCaptured);
  return record;
}

CoalescedLaunch::CoalescedLaunch() noexcept {
  CoalescedCalls& calls = coalesced_calls;
  if (calls.depth == 0 || --calls.depth > 0) return;
  KnownGroup* group = calls.group;
  const uint32_t sequence = group == nullptr ? 0 : group->coalesced.fetch_add(1, std::memory_order_relaxed);
  Recording* recording = Recorder::active();
  if (recording != nullptr && group != nullptr && calls.members > 0) {
    record_ = describe(calls);
    record_.scope = thread_state.scope_in(recording);
    StreamRef stream;
    if (record_.device >= 0) stream = stream_on_device(record_.device);
    if (stream.capturing) record_.flags |= kCollectiveCaptured;
    const bool async = (record_.flags & kCollectiveAsync) != 0;
    const bool shown = !async || group->nccl_events.load(std::memory_order_relaxed) == NcclEvents::kKept;
    const bool captured = (record_.flags & kCollectiveCaptured) != 0;
    if (record_.device < 0 || (group->cuda_is_nccl && shown && !captured)) record_.flags |= kCollectiveTimed;
    record_.stream = reinterpret_cast<uint64_t>(stream.stream);
    record_.sequence = sequence;
    record_.id = recording->next_id();
    record_.tick = tick_now();
    if ((record_.flags & kCollectiveTimed) != 0 && record_.device >= 0 && !async) {
      timer_ = SpanTimer::begin(recording, stream);
      if (timer_ == 0) record_.flags &= static_cast<uint8_t>(~kCollectiveTimed);
    }
    if (recording->append(record_) != nullptr) recording_ = recording;
  }
  if (calls.numbered_here) thread_state.coalesced = 0;
  calls = {};
}

void CoalescedLaunch::returned(c10d::Work* work) noexcept {
  phase_ = CollectivePhase::kReturned;
  if (recording_ == nullptr || (record_.flags & kCollectiveTimed) == 0 || timer_ != 0) return;
  const NcclWork about{record_.id, record_.device, nccl_queue(record_.group, -1)};
  const bool known = work != nullptr && (record_.device < 0 ? stamp_completion(*work, recording_, record_.id)
                                                            : time_nccl_work(recording_, *work, about));
  if (!known) end_flags_ = kCollectiveUntimed;
}

CoalescedLaunch::~CoalescedLaunch() {
  if (recording_ == nullptr || phase_ == CollectivePhase::kFailed) {
    SpanTimer::abandon(timer_);
  } else {
    SpanTimer::end(timer_, SpanOwner::kCollective, record_.id);
  }
  if (recording_ != nullptr) write_collective_end(recording_, record_.id, phase_, end_flags_, thread_state.unit);
}

}  // namespace wanhook
