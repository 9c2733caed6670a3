#include "hooks/process_groups.h"

#include <mutex>
#include <string>
#include <type_traits>

#include "core/recorder.h"

namespace wanhook {
namespace {

constexpr size_t kPlaces = 4096;  // a power of two; groups beyond it share one entry

struct Place {
  std::atomic<const c10d::ProcessGroup*> group{nullptr};
  KnownGroup known;
  // Who this is, as an address can come back for another group. A weak pointer would keep it from that, and the group
  // from its destructor too: its backends, and their threads, would live on after destroy_process_group().
  std::string name;
  int rank = -1;
  int size = -1;
};
// Stands for a group that is gone; its place is not used again, as readers may still look at it.
const auto* const kGone = reinterpret_cast<const c10d::ProcessGroup*>(1);

Place places[kPlaces];
KnownGroup overflow;
std::mutex mutex;

size_t first_place(const c10d::ProcessGroup* group) noexcept {
  return (reinterpret_cast<size_t>(group) >> 6) * 0x9e3779b97f4a7c15ull >> 52 & (kPlaces - 1);
}

template <class Backend, class = void>
struct HasOptions : std::false_type {};
template <class Backend>
struct HasOptions<Backend, std::void_t<decltype(std::declval<Backend>().getBackendOptions()->global_ranks_in_group)>>
    : std::true_type {};

// From torch 2.9 on; before, the reader learns the members from the meta data that Python writes.
template <class Backend>
std::vector<uint32_t> members_of(Backend& backend) {
  std::vector<uint32_t> members;
  if constexpr (HasOptions<Backend>::value) {
    const auto options = backend.getBackendOptions();
    if (!options) return members;  // backends may have none, the fake one for example
    for (const uint64_t rank : options->global_ranks_in_group) members.push_back(static_cast<uint32_t>(rank));
  }
  return members;
}

c10::intrusive_ptr<c10d::Backend> backend_for(c10d::ProcessGroup& group, c10::DeviceType type) noexcept {
  try {
    return group.getBackend(type);
  } catch (...) {
    return {};
  }
}

void describe(c10d::ProcessGroup& group, KnownGroup* known) noexcept {
  GroupInfo info;
  std::string backends;
  Recorder& recorder = Recorder::get();
  try {
    for (const c10::DeviceType type : {c10::DeviceType::CUDA, c10::DeviceType::CPU}) {
      const auto backend = backend_for(group, type);
      if (!backend) continue;
      const std::string name = backend->getBackendName();
      if (type == c10::DeviceType::CUDA) known->cuda_is_nccl = name.rfind("nccl", 0) == 0;
      if (backends.find(name) == std::string::npos) backends += (backends.empty() ? "" : ",") + name;
      if (info.members.empty()) info.members = members_of(*backend);
    }
  } catch (...) {
    info.members.clear();
  }
  try {
    info.name = recorder.intern(group.getGroupName());
    info.backend = recorder.intern(backends);
    info.rank = group.getRank();
    info.size = group.getSize();
    if (info.members.size() != static_cast<size_t>(info.size)) info.members.clear();
  } catch (...) {
    info.name = recorder.intern("?");
  }
  known->index = recorder.define_group(std::move(info));
}

// The group's own name without a copy; a group without a backend has none and throws.
bool is_same(const Place& place, const c10d::ProcessGroup& group) noexcept {
  try {
    return group.getRank() == place.rank && group.getSize() == place.size && group.getGroupName() == place.name;
  } catch (...) {
    return place.name.empty();
  }
}

void remember(const c10::intrusive_ptr<c10d::ProcessGroup>& group, Place* place) noexcept {
  place->rank = group->getRank();
  place->size = group->getSize();
  try {
    place->name = group->getGroupName();
  } catch (...) {
    place->name.clear();
  }
  describe(*group, &place->known);
}

}  // namespace

KnownGroup* find_group(const c10::intrusive_ptr<c10d::ProcessGroup>& group) noexcept {
  const c10d::ProcessGroup* address = group.get();
  const size_t first = first_place(address);
  for (size_t step = 0, place = first; step < kPlaces; ++step, place = (place + 1) & (kPlaces - 1)) {
    const c10d::ProcessGroup* there = places[place].group.load(std::memory_order_acquire);
    if (there == address && is_same(places[place], *group)) return &places[place].known;
    if (there == nullptr || there == address) break;
  }
  if (Recorder::in_forked_child()) return &overflow;
  std::lock_guard<std::mutex> lock(mutex);
  for (size_t step = 0, place = first; step < kPlaces; ++step, place = (place + 1) & (kPlaces - 1)) {
    const c10d::ProcessGroup* there = places[place].group.load(std::memory_order_relaxed);
    if (there == address && is_same(places[place], *group)) return &places[place].known;
    if (there == address) places[place].group.store(kGone, std::memory_order_relaxed);
    if (there != nullptr) continue;
    remember(group, &places[place]);
    places[place].group.store(address, std::memory_order_release);
    return &places[place].known;
  }
  return &overflow;
}

}  // namespace wanhook
