// What torch takes to hand an entry to a tracker: its caching allocator over a made-up CUDA runtime, in a loop, first
// without a tracker and then with one that does nothing. Prints ns a pair of each, a line a round.
//
//   tracker_loop ROUNDS
#include <c10/cuda/CUDACachingAllocator.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace caching = c10::cuda::CUDACachingAllocator;

namespace {

constexpr size_t kBytes = size_t{1} << 20;
constexpr long kPairs = 100'000;

double pair_ns() {
  const auto begin = std::chrono::steady_clock::now();
  for (long pair = 0; pair < kPairs; ++pair) caching::raw_delete(caching::raw_alloc(kBytes));
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - begin;
  return spent.count() / static_cast<double>(kPairs);
}

}  // namespace

int main(int, char** arguments) {
  const int rounds = std::atoi(arguments[1]);
  caching::get()->init(1);
  pair_ns();
  for (int round = 0; round < rounds; ++round) std::printf("bare %.1f\n", pair_ns());
  caching::get()->attachAllocatorTraceTracker([](const caching::TraceEntry&) {});
  pair_ns();
  for (int round = 0; round < rounds; ++round) std::printf("tracked %.1f\n", pair_ns());
  return 0;
}
