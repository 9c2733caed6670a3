#include "hooks/process_groups.h"

#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include "core/recorder.h"

namespace wanhook {
namespace {

constexpr size_t kPlaces = 4096;  // a power of two; groups beyond it share one entry

// Who a group is, as its address can come back for another one. A weak pointer would keep it from that, and the group
// from its destructor too: its backends, and their threads, would live on after destroy_process_group().
struct Identity {
  std::string name;
  int rank = -1;
  int size = -1;
  c10d::ProcessGroup::BackendType backend = c10d::ProcessGroup::BackendType::UNDEFINED;
};

struct Place {
  std::atomic<const c10d::ProcessGroup*> group{nullptr};
  const Identity* identity = nullptr;  // leaked on purpose; written before `group`
  KnownGroup known;
};
// Threads may still call collectives while the process's static objects are destroyed.
static_assert(std::is_trivially_destructible_v<Place>);

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

struct Description {
  Identity identity;
  GroupInfo info;
  bool cuda_is_nccl = false;
};

Identity identify(const c10d::ProcessGroup& group) {
  Identity identity{{}, group.getRank(), group.getSize(), group.getBackendType()};
  try {
    identity.name = group.getGroupName();
  } catch (...) {  // a group without a backend has no name in some versions of torch
  }
  return identity;
}

void add_backends(c10d::ProcessGroup& group, Description* description) noexcept {
  std::string names;
  try {
    for (const c10::DeviceType type : {c10::DeviceType::CUDA, c10::DeviceType::CPU}) {
      const auto backend = backend_for(group, type);
      if (!backend) continue;
      const std::string name = backend->getBackendName();
      if (type == c10::DeviceType::CUDA) description->cuda_is_nccl = name.rfind("nccl", 0) == 0;
      if (names.find(name) == std::string::npos) names += (names.empty() ? "" : ",") + name;
      if (description->info.members.empty()) description->info.members = members_of(*backend);
    }
    description->info.backend = Recorder::get().intern(names);
  } catch (...) {
    description->info.members.clear();
  }
}

// A group's functions can be Python's (a subclass) and wait for the GIL, so none of this happens under the lock.
Description describe(c10d::ProcessGroup& group) {
  Description description;
  description.identity = identify(group);
  const Identity& identity = description.identity;
  add_backends(group, &description);
  description.info.name = Recorder::get().intern(identity.name.empty() ? "?" : identity.name);
  description.info.rank = identity.rank;
  description.info.size = identity.size;
  if (description.info.members.size() != static_cast<size_t>(identity.size)) description.info.members.clear();
  return description;
}

bool operator==(const Identity& one, const Identity& other) noexcept {
  return one.rank == other.rank && one.size == other.size && one.backend == other.backend && one.name == other.name;
}

// The same without a copy of the name, for every call.
bool is_same(const Identity& known, const c10d::ProcessGroup& group) noexcept {
  try {
    return group.getRank() == known.rank && group.getSize() == known.size && group.getBackendType() == known.backend &&
           group.getGroupName() == known.name;
  } catch (...) {
    return known.name.empty();
  }
}

KnownGroup* remember(const c10d::ProcessGroup* address, Description description) {
  auto identity = std::make_unique<const Identity>(std::move(description.identity));
  const std::lock_guard<std::mutex> lock(mutex);
  for (size_t step = 0, place = first_place(address); step < kPlaces; ++step, place = (place + 1) & (kPlaces - 1)) {
    Place& candidate = places[place];
    const c10d::ProcessGroup* there = candidate.group.load(std::memory_order_relaxed);
    if (there == address && *candidate.identity == *identity) return &candidate.known;
    if (there == address) candidate.group.store(kGone, std::memory_order_relaxed);
    if (there != nullptr) continue;
    candidate.known.cuda_is_nccl = description.cuda_is_nccl;
    candidate.known.index = Recorder::get().define_group(std::move(description.info));
    candidate.identity = identity.release();
    candidate.group.store(address, std::memory_order_release);
    return &candidate.known;
  }
  return &overflow;
}

}  // namespace

KnownGroup* find_group(const c10::intrusive_ptr<c10d::ProcessGroup>& group) noexcept {
  const c10d::ProcessGroup* address = group.get();
  for (size_t step = 0, place = first_place(address); step < kPlaces; ++step, place = (place + 1) & (kPlaces - 1)) {
    const c10d::ProcessGroup* there = places[place].group.load(std::memory_order_acquire);
    if (there == address && is_same(*places[place].identity, *group)) return &places[place].known;
    if (there == nullptr || there == address) break;
  }
  if (Recorder::in_forked_child()) return &overflow;
  try {
    return remember(address, describe(*group));
  } catch (...) {
    return &overflow;
  }
}

void forget_group(const c10d::ProcessGroup* group) noexcept {
  if (Recorder::in_forked_child()) return;
  const std::lock_guard<std::mutex> lock(mutex);
  for (Place& place : places) {
    const c10d::ProcessGroup* there = place.group.load(std::memory_order_relaxed);
    if (there != nullptr && there != kGone && (group == nullptr || there == group)) {
      place.group.store(kGone, std::memory_order_relaxed);
    }
  }
}

}  // namespace wanhook
