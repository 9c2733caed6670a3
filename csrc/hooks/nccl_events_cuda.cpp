#include "hooks/nccl_events.h"

#include "core/recorder.h"
#include "device/device_timer.h"

#ifdef USE_C10D_NCCL
#include <ATen/cuda/CUDAEvent.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <memory>
#include <type_traits>

namespace wanhook {
namespace {

using Event = std::shared_ptr<at::cuda::CUDAEvent>;

// The last reference may be dropped on the resolver's thread. Events come from a cache and go back to it under a mutex
// that is never held for long, or, with TORCH_NCCL_CUDA_EVENT_CACHE=0, are destroyed, which is safe there: the device
// is current, and the thread's capture mode is relaxed.
struct WorkEvents {
  Event start;
  Event end;
};

struct Hidden {};

// A pointer to a protected member may be formed in a derived class. Never instantiated as an object.
template <class Work>
struct Peek : Work {
  template <class Self = Peek>
  static auto events(const Work& work, int)
      -> decltype(WorkEvents{work.*(&Self::ncclStartEvent_), work.*(&Self::ncclEndEvent_)}) {
    return {work.*(&Self::ncclStartEvent_), work.*(&Self::ncclEndEvent_)};
  }
  // Versions that have no such members, or other types behind the names.
  static Hidden events(const Work&, long) { return {}; }
};

using NcclBackend = c10d::ProcessGroupNCCL;
using Work = NcclBackend::WorkNCCL;
using Shown = decltype(Peek<Work>::events(std::declval<const Work&>(), 0));
constexpr bool kShown = std::is_same_v<Shown, WorkEvents>;

// Nothing is timed when the events exist but were never recorded, as those of a work inside a coalesced group.
template <class Events>
bool recorded(const Events& events) {
  if constexpr (kShown) {
    return events.start != nullptr && events.end != nullptr && events.start->isCreated() && events.end->isCreated();
  }
  return false;
}

template <class Events>
bool hand_over(Recording* recording, Events events, const NcclWork& about) {
  if constexpr (kShown) {
    DeviceTimer* timer = device_timer(about.device);
    if (timer == nullptr || timer->failed()) return false;
    const uint32_t index = timer->take_lent();
    if (index == EventPool::kNone) return false;
    EventPair& pair = timer->pair(index);
    pair.begin = events.start->event();
    pair.end = events.end->event();
    pair.stream = reinterpret_cast<cudaStream_t>(about.queue);
    pair.recording = recording;
    pair.owner = about.owner;
    pair.owner_type = SpanOwner::kCollective;
    pair.keep(std::move(events));
    recording->span_opened();
    timer->submit(index);
    return true;
  }
  return false;
}

}  // namespace

bool keep_nccl_events(c10d::ProcessGroup& group) noexcept {
  if (!kShown) return false;
  try {
    const auto backend = group.getBackend(c10::DeviceType::CUDA);
    // A wrapper (TORCH_DISTRIBUTED_DEBUG=DETAIL) or another class called "nccl" would only pay for them.
    if (dynamic_cast<NcclBackend*>(backend.get()) == nullptr) return false;
    backend->enableCollectivesTiming();
    return true;
  } catch (...) {
    return false;
  }
}

bool time_nccl_work(Recording* recording, const c10d::Work& work, const NcclWork& about) noexcept {
  try {
    const auto* nccl = dynamic_cast<const Work*>(&work);
    if (nccl == nullptr) return false;
    auto events = Peek<Work>::events(*nccl, 0);
    return recorded(events) && hand_over(recording, std::move(events), about);
  } catch (...) {
    return false;
  }
}

}  // namespace wanhook

#else  // built without nccl.h

namespace wanhook {

bool keep_nccl_events(c10d::ProcessGroup&) noexcept { return false; }
bool time_nccl_work(Recording*, const c10d::Work&, const NcclWork&) noexcept { return false; }

}  // namespace wanhook

#endif
