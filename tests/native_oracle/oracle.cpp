// `oracle DIRECTORY SEED OPERATIONS MIX`: drives torch's own CUDA caching allocator over a fake device with random
// operations, and writes what it recorded and what it said about itself. Settings come from PYTORCH_ALLOC_CONF.
//
// MIX is letters:
//   s  several streams and record_stream
//   p  private pools: those of graph captures, and MemPools
//   r  pools are released; not with expandable segments: torch 2.11 then counts mappings wrongly and uses a pool that
//   it
//      has deleted
//   o  little memory and memory fractions, so that allocations fail
//   e  empty_cache
//   c  pools are put back into an earlier state, as trees of captured graphs do; not with s
//   l  settings change in mid-run
//   n  MemPools never split
//   u  MemPools lend their blocks to others when memory runs out

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "fake_device.h"
#include "recorded.h"

// In no header: libtorch_cuda, which is not loaded here, answers it elsewhere.
namespace c10::cuda::_internal {
C10_CUDA_API void setHasPrimaryContext(bool (*)(c10::DeviceIndex));
}

namespace wanhook::test {
namespace {

namespace caching = c10::cuda::CUDACachingAllocator;

constexpr int kStreams = 4;
constexpr uint64_t kProbeEvery = 20;

cudaStream_t stream_number(int number) {
  return reinterpret_cast<cudaStream_t>(static_cast<uint64_t>(number) * 0x100000);
}

class Fuzz {
 public:
  Fuzz(uint64_t seed, const std::string& mix) : random_(seed), mix_(mix) {
    c10::cuda::_internal::setHasPrimaryContext([](c10::DeviceIndex) { return true; });
    FakeDevice::get().total = (has('o') ? uint64_t{10} : uint64_t{160}) << 30;
    caching::init(1);
    allocate_some(200);  // the recording attaches in mid-run
    caching::get()->attachAllocatorTraceTracker(
        [this](const caching::TraceEntry& entry) { recorded_.on_entry(entry); });
    recorded_.snapshot(StateReason::kStart);
    recorded_.reset_peaks();
  }

  void run(uint64_t operations, const std::string& directory) {
    uint64_t done = 0;
    try {
      while (done < operations) operate(++done);
      recorded_.probe();
      recorded_.snapshot(StateReason::kStop);
    } catch (const c10::Error& error) {
      // An assertion of torch's own. What was compared before it still counts.
      std::printf("stopped by torch: %.150s\n", error.what_without_backtrace());
    }
    recorded_.write(directory);
    std::printf("%llu operations, %llu failed allocations, %llu deferred frees, %zu live\n",
                static_cast<unsigned long long>(done), static_cast<unsigned long long>(recorded_.out_of_memory()),
                static_cast<unsigned long long>(recorded_.deferred()), live_.size());
  }

 private:
  struct Live {
    void* address;
    uint64_t size;
    int stream;
  };

  bool has(char letter) const { return mix_.find(letter) != std::string::npos; }
  bool chance(double probability) { return std::uniform_real_distribution<>(0, 1)(random_) < probability; }
  uint64_t below(uint64_t bound) { return std::uniform_int_distribution<uint64_t>(0, bound - 1)(random_); }

  // Log-uniform from 1 B to 1 GB; and sizes on and around the borders of the rules.
  uint64_t some_size() {
    if (chance(0.1)) {
      static const uint64_t borders[] = {512, 1 << 20, 2 << 20, 10 << 20, 20 << 20, 64 << 20, 128 << 20};
      const uint64_t border = borders[below(std::size(borders))];
      return border - 511 + below(1027);
    }
    return static_cast<uint64_t>(std::exp(std::uniform_real_distribution<>(0, std::log(1e9))(random_)));
  }

  void allocate_some(int count) {
    for (int number = 0; number < count; ++number) allocate(some_size() % (16 << 20) + 1);
  }

  void allocate(uint64_t size) {
    const int stream = has('s') ? static_cast<int>(below(kStreams)) : 0;
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        live_.push_back({caching::raw_alloc_with_stream(size, stream_number(stream)), size, stream});
        bytes_ += size;
        return;
      } catch (const c10::OutOfMemoryError&) {
        const size_t kept = live_.size() / 2;
        while (live_.size() > kept) free_one();
      }
    }
  }

  void free_one() {
    if (live_.empty()) return;
    // Old ones and new ones: stacks, queues and everything between.
    const size_t index = chance(0.3) ? live_.size() - 1 : below(live_.size());
    std::swap(live_[index], live_.back());
    bytes_ -= live_.back().size;
    caching::raw_delete(live_.back().address);
    live_.pop_back();
  }

  void use_on_another_stream() {
    if (live_.empty()) return;
    const Live& found = live_[below(live_.size())];
    const c10::Device device(c10::DeviceType::CUDA, 0);
    c10::DataPtr pointer(found.address, found.address, caching::get()->raw_deleter(), device);
    const int stream = (found.stream + 1 + static_cast<int>(below(kStreams - 1))) % kStreams;
    caching::recordStream(pointer, c10::cuda::getStreamFromExternal(stream_number(stream), 0));
    pointer.release_context();
  }

  void let_streams_run() {
    for (auto& [name, stream] : FakeDevice::get().streams) {
      stream.done += below(stream.issued - stream.done + 1);
    }
  }

  // One pool at a time takes the allocations of all streams, or of one.
  void switch_pool() {
    if (capturing_.first != 0 || capturing_.second != 0) {
      caching::endAllocateToPool(0, capturing_);
      if (has('u') && capturing_.second != 0) caching::setUseOnOOM(0, capturing_, true);
      capturing_ = {0, 0};
      return;
    }
    if (has('r') && !pools_.empty() && chance(pools_.size() > 2 ? 0.7 : 0.3)) {
      const size_t index = below(pools_.size());
      for (; pool_uses_[index] > 0; --pool_uses_[index]) caching::releasePool(0, pools_[index]);
      pools_.erase(pools_.begin() + static_cast<ptrdiff_t>(index));
      pool_uses_.erase(pool_uses_.begin() + static_cast<ptrdiff_t>(index));
      return;
    }
    size_t index = pools_.size();
    if (!pools_.empty() && (chance(0.5) || pools_.size() > 5)) {
      index = below(pools_.size());
    } else {
      ++last_pool_;
      pools_.push_back(chance(0.5) ? c10::MempoolId_t{last_pool_, 0} : c10::MempoolId_t{0, last_pool_});
      pool_uses_.push_back(0);
    }
    const bool is_new = pool_uses_[index] == 0;
    const cudaStream_t only = chance(0.5) ? stream_number(static_cast<int>(below(kStreams))) : nullptr;
    capturing_ = pools_[index];
    ++pool_uses_[index];
    caching::beginAllocateToPool(0, capturing_,
                                 [only](cudaStream_t stream) { return only == nullptr || stream == only; });
    // torch cannot fall back on a pool that it is recording into.
    if (has('u') && capturing_.second != 0) caching::setUseOnOOM(0, capturing_, false);
    if (has('n') && is_new && capturing_.second != 0) caching::setNoSplit(0, capturing_);
  }

  // All of the pool's blocks are freed, and those of the kept state are there again.
  void put_back() {
    if (pools_.empty()) return;
    const size_t index = below(pools_.size());
    if (kept_states_.size() < 3 || chance(0.5)) {
      kept_states_.push_back(caching::getCheckpointState(0, pools_[index]));
      return;
    }
    c10::cuda::CUDACachingAllocator::CheckpointDelta changed =
        caching::setCheckpointPoolState(0, kept_states_[below(kept_states_.size())]);
    const std::set<void*> freed(changed.ptrs_freed.begin(), changed.ptrs_freed.end());
    std::vector<Live> kept;
    for (const Live& each : live_) {
      if (freed.count(each.address) == 0) kept.push_back(each);
    }
    for (c10::DataPtr& pointer : changed.dataptrs_allocd) kept.push_back({pointer.release_context(), 0, 0});
    live_.swap(kept);
    bytes_ = 0;
    for (const Live& each : live_) bytes_ += each.size;
  }

  void change_settings() {
    static const char* settings[] = {"expandable_segments:True", "expandable_segments:False", "max_split_size_mb:64",
                                     "roundup_power2_divisions:8"};
    c10::CachingAllocator::setAllocatorSettings(settings[below(std::size(settings))]);
  }

  void operate(uint64_t operation) {
    recorded_.set_scope(static_cast<uint32_t>(operation));
    step();
    if (operation % kProbeEvery == 0) recorded_.probe();
    if (chance(1.0 / 400)) recorded_.snapshot(StateReason::kCheckpoint);
    if (chance(1.0 / 300)) recorded_.reset_peaks();
  }

  void step() {
    const uint64_t target = has('o') ? uint64_t{5} << 30 : uint64_t{20} << 30;
    if (chance(bytes_ > target ? 0.7 : 0.45)) {
      free_one();
    } else {
      allocate(some_size());
    }
    if (has('s') && chance(0.15)) use_on_another_stream();
    if (has('s') && chance(0.1)) let_streams_run();
    if (has('p') && chance(1.0 / 60)) switch_pool();
    const bool in_capture = capturing_.first != 0 || capturing_.second != 0;
    if (has('e') && !in_capture && chance(1.0 / 150)) caching::emptyCache();
    if (has('o') && chance(1.0 / 200)) caching::setMemoryFraction(std::uniform_real_distribution<>(0.3, 1)(random_), 0);
    if (has('l') && chance(1.0 / 500)) change_settings();
    if (has('c') && !in_capture && chance(1.0 / 50)) put_back();
  }

  std::mt19937_64 random_;
  std::string mix_;
  Recorded recorded_;
  std::vector<Live> live_;
  uint64_t bytes_ = 0;
  std::vector<c10::MempoolId_t> pools_;
  std::vector<int> pool_uses_;
  std::vector<std::shared_ptr<caching::AllocatorState>> kept_states_;
  c10::MempoolId_t capturing_{0, 0};
  uint64_t last_pool_ = 0;
};

// The settings that decide sizes, as torch reads these strings one after the other: five lines.
void print_settings(int count, char** strings) {
  using Config = c10::CachingAllocator::AcceleratorAllocatorConfig;
  for (int each = 0; each < count; ++each) c10::CachingAllocator::setAllocatorSettings(strings[each]);
  std::printf("%llu\n", static_cast<unsigned long long>(Config::max_split_size()));
  for (const size_t divisions : Config::roundup_power2_divisions()) {
    std::printf("%llu ", static_cast<unsigned long long>(divisions));
  }
  std::printf("\n%llu\n%d\n%.17g\n", static_cast<unsigned long long>(Config::large_segment_size()),
              Config::use_expandable_segments(), Config::garbage_collection_threshold());
}

}  // namespace
}  // namespace wanhook::test

int main(int count, char** arguments) {
  if (count > 1 && std::string(arguments[1]) == "--settings") {
    wanhook::test::print_settings(count - 2, arguments + 2);
    return 0;
  }
  if (count != 5) {
    std::fputs("usage: oracle DIRECTORY SEED OPERATIONS MIX, or oracle --settings [STRING ...]\n", stderr);
    return 2;
  }
  const uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  // Leaked: torch's allocator keeps calling the recorder until the process has gone.
  auto* fuzz = new wanhook::test::Fuzz(seed, arguments[4]);
  fuzz->run(std::strtoull(arguments[3], nullptr, 10), arguments[1]);
  std::fflush(stdout);
  std::_Exit(0);
}
