#include "hooks/collective_hook.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <algorithm>
#include <memory>

#include "core/clock.h"
#include "core/hook_profile.h"
#include "core/recorder.h"
#include "device/scopes.h"
#include "device/span_timer.h"
#include "hooks/coalesced_group.h"
#include "hooks/completion.h"
#include "hooks/nccl_events.h"
#include "hooks/operator_shape.h"
#include "hooks/process_groups.h"
#include "hooks/streams.h"

namespace wanhook {
namespace {

// One call that is being recorded, from its begin record to its end record, also when the call throws.
class RecordedCall {
 public:
  // `record` outlives the call: a copy would read what has just been written piece by piece.
  RecordedCall(Recording* recording, CollectiveRecord& record, StreamRef stream) noexcept
      : recording_(recording), id_(record.id), record_(record) {
    if ((record_.flags & kCollectiveTimed) != 0 && !work_tells_time()) {
      timer_ = SpanTimer::begin(recording, stream);
      if (timer_ == 0) record_.flags &= static_cast<uint8_t>(~kCollectiveTimed);
    }
    written_ = recording->append(record_) != nullptr;
  }
  ~RecordedCall() {
    WANHOOK_TIME_HOOK(HookPart::kCollectiveAfter);
    if (!written_ || phase_ == CollectivePhase::kFailed) {
      SpanTimer::abandon(timer_);
    } else {
      SpanTimer::end(timer_, SpanOwner::kCollective, id_);
    }
    if (written_) write_collective_end(recording_, id_, phase_, end_flags_, thread_state.unit);
  }
  RecordedCall(const RecordedCall&) = delete;
  RecordedCall& operator=(const RecordedCall&) = delete;

  void returned() noexcept { phase_ = CollectivePhase::kReturned; }
  bool awaits_work() const noexcept { return written_ && (record_.flags & kCollectiveTimed) != 0 && work_tells_time(); }
  void time_by(const c10::IValue& result) noexcept {
    if (!try_to_time_by(result)) end_flags_ = kCollectiveUntimed;
  }

 private:
  // Of a synchronous CUDA call two events of ours do: torch gives its Work to nobody.
  bool work_tells_time() const noexcept { return record_.device < 0 || (record_.flags & kCollectiveAsync) != 0; }
  bool try_to_time_by(const c10::IValue& result) noexcept {
    try {
      const auto work = result.toCustomClass<c10d::Work>();
      if (!work) return false;
      if (record_.device < 0) return stamp_completion(*work, recording_, id_);
      const int32_t peer = (record_.flags & kCollectiveP2p) != 0 ? record_.peer : -1;
      return time_nccl_work(recording_, *work, {id_, record_.device, nccl_queue(record_.group, peer)});
    } catch (...) {
      return false;
    }
  }

  Recording* recording_;
  uint32_t id_;
  CollectiveRecord& record_;
  uint32_t timer_ = 0;
  bool written_ = false;
  uint8_t end_flags_ = 0;
  CollectivePhase phase_ = CollectivePhase::kFailed;
};

// The group an argument holds, without the eight reference counts that toCustomClass() moves on its way. The schema has
// checked its class.
class BorrowedGroup {
 public:
  explicit BorrowedGroup(const c10::IValue& argument)
      : group_(c10::intrusive_ptr<c10d::ProcessGroup>::reclaim(pointer_in(argument))) {}
  ~BorrowedGroup() { group_.release(); }
  BorrowedGroup(const BorrowedGroup&) = delete;
  BorrowedGroup& operator=(const BorrowedGroup&) = delete;
  const c10::intrusive_ptr<c10d::ProcessGroup>& get() const noexcept { return group_; }

 private:
  static c10d::ProcessGroup* pointer_in(const c10::IValue& argument) {
    const void* held = argument.toObjectRef().getSlot(0).internalToPointer();
    auto* target = static_cast<c10::intrusive_ptr_target*>(const_cast<void*>(held));
    return static_cast<c10d::ProcessGroup*>(static_cast<torch::CustomClassHolder*>(target));
  }

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

class CollectiveKernel final : public c10::OperatorKernel {
 public:
  explicit CollectiveKernel(OperatorShape shape) : shape_(std::move(shape)) {}

  [[gnu::hot]] void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    WANHOOK_HOOK_BEGINS(entered);
    const auto arguments = torch::jit::last(*stack, shape_.arguments);
    CallTensors inputs;
    for (const size_t index : shape_.inputs) add_tensors(arguments[index], &inputs);
    CallTensors outputs;
    for (const size_t index : shape_.outputs) add_tensors(arguments[index], &outputs);
    if (inputs.has_python_key || outputs.has_python_key) return call(handle, keys, stack);

    KnownGroup* group = find_group(BorrowedGroup(arguments[shape_.group]).get());
    std::atomic<uint32_t>& counter = shape_.point_to_point ? group->point_to_point : group->collectives;
    const uint32_t sequence = counter.fetch_add(1, std::memory_order_relaxed);
    const bool member = coalesced_calls.depth > 0;
    if (member && coalesced_calls.group == nullptr) coalesced_calls.group = group;
    Recording* recording = Recorder::active();
    if (recording == nullptr || WANHOOK_LEFT_OUT(kNoCollectives)) return call(handle, keys, stack);

    Recording::expect_record(this_thread());
    resync_if_wanted(recording);
    StreamRef stream;
    CollectiveRecord record = describe(inputs, outputs, arguments, *group, &stream);
    record.scope = thread_state.scope_in(recording);
    record.sequence = sequence;
    record.id = recording->next_id();
    record.tick = tick_now();
    if (member) join_coalesced(record);
    RecordedCall recorded(recording, record, stream);
    WANHOOK_HOOK_ENDS(HookPart::kCollectiveBefore, entered);
    call(handle, keys, stack);
    recorded.returned();
    if (recorded.awaits_work() && shape_.work >= 0) {
      recorded.time_by(torch::jit::last(*stack, shape_.results)[static_cast<size_t>(shape_.work)]);
    }
  }

 private:
  static void call(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    const c10::DispatchKeySet behind(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::BackendSelect);
    handle.redispatchBoxed(keys & behind, stack);
  }

  CollectiveRecord describe(const CallTensors& inputs, const CallTensors& outputs, c10::ArrayRef<c10::IValue> arguments,
                            KnownGroup& group, StreamRef* stream) const {
    const CallTensors& any = inputs.count > 0 ? inputs : outputs;
    CollectiveRecord record{};
    record.kind = static_cast<uint8_t>(Kind::kCollective);
    record.op = static_cast<uint16_t>(shape_.name_id);
    record.role = thread_state.role;
    record.group = group.index;
    record.dtype = 255;
    if (shape_.moves_data) {
      record.bytes_in = inputs.bytes;
      record.bytes_out = outputs.bytes;
      record.tensors = static_cast<uint16_t>(std::min<uint32_t>(any.count, UINT16_MAX));
      if (any.dtype >= 0) record.dtype = static_cast<uint8_t>(any.dtype);
    }
    record.device = -1;
    record.peer = shape_.peer < 0 ? -1 : static_cast<int32_t>(arguments[static_cast<size_t>(shape_.peer)].toInt());
    if (any.has_cuda) {
      *stream = stream_on_device(any.device);
      record.device = static_cast<int8_t>(any.device);
      record.stream = reinterpret_cast<uint64_t>(stream->stream);
    }
    record.flags = flags_of(arguments, group, any.has_cuda, stream->capturing);
    if ((record.flags & kCollectiveCoalesced) != 0) record.coalesced = thread_state.coalesced;
    return record;
  }

  uint8_t flags_of(c10::ArrayRef<c10::IValue> arguments, KnownGroup& group, bool cuda, bool capturing) const {
    // What has a Work and no such argument (send, recv) works on NCCL's own stream, as async_op=True does.
    const bool async =
        shape_.async_op < 0 ? shape_.work >= 0 : arguments[static_cast<size_t>(shape_.async_op)].toBool();
    const bool member = coalesced_calls.depth > 0;
    // A coalescing manager that groups nothing itself collects the tensors of its calls for one operator.
    const bool whole_group = !member && shape_.coalesces && thread_state.coalesced != 0;
    uint8_t flags = 0;
    if (async) flags |= kCollectiveAsync;
    if (shape_.point_to_point) flags |= kCollectiveP2p;
    if (capturing) flags |= kCollectiveCaptured;
    if (member || whole_group) flags |= kCollectiveCoalesced;
    if (whole_group) flags |= kCollectiveGroup;
    const bool timed =
        cuda ? group.cuda_is_nccl && !capturing && (!async || keeps_events(arguments, group)) : shape_.has_future;
    if (timed && !member) flags |= kCollectiveTimed;
    const bool keeps = group.nccl_events.load(std::memory_order_relaxed) == NcclEvents::kKept;
    if (cuda && timed && !async && !member && keeps) flags |= kCollectiveAroundEvents;
    return flags;
  }

  bool keeps_events(c10::ArrayRef<c10::IValue> arguments, KnownGroup& group) const {
    NcclEvents events = group.nccl_events.load(std::memory_order_relaxed);
    if (events == NcclEvents::kNotAsked) {
      const bool kept = keep_nccl_events(*BorrowedGroup(arguments[shape_.group]).get());
      events = kept ? NcclEvents::kKept : NcclEvents::kNone;
      group.nccl_events.store(events, std::memory_order_relaxed);
    }
    return events == NcclEvents::kKept;
  }

  const OperatorShape shape_;
};

std::vector<std::string> register_all() {
  // Leaked on purpose: see the header.
  auto* library = new torch::Library(torch::Library::IMPL, "c10d", c10::DispatchKey::BackendSelect, __FILE__, __LINE__);
  std::vector<std::string> names;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("c10d::", 0) != 0) continue;
    const auto handle = c10::Dispatcher::singleton().findSchema(name);
    OperatorShape shape;
    if (!handle.has_value() || !read_shape(handle->schema(), &shape)) continue;
    shape.name_id = Recorder::get().intern(shape.name);
    names.push_back(shape.name);
    auto kernel = std::make_unique<CollectiveKernel>(std::move(shape));
    library->impl(names.back().c_str(),
                  torch::CppFunction::makeFromBoxedKernel(c10::BoxedKernel::makeFromFunctor(std::move(kernel))));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::vector<std::string> attach_collectives() {
  static const std::vector<std::string> names = register_all();
  return names;
}

}  // namespace wanhook
