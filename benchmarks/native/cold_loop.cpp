// What one alloc and free takes when something else has run since the last one: the caches hold that other work's code
// and data then, not the recorder's.
#include <c10/core/Allocator.h>
#include <sys/mman.h>
#ifdef WANHOOK_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr size_t kLine = 64;
constexpr size_t kPage = 4096;
constexpr size_t kDataBytes = size_t{4} << 20;   // twice the second-level cache of the machines that are meant
constexpr size_t kPages = 4096;                  // more than a second-level TLB holds
constexpr size_t kCodeBytes = size_t{512} << 10;

using Clock = std::chrono::steady_clock;

volatile unsigned char* data() {
  static auto* bytes = new unsigned char[kPages * kPage]();
  return bytes;
}

// One instruction a line, jumping to the next line: runs through the instruction caches. Null where such code cannot be
// made.
void (*code())() {
#if defined(__x86_64__)
  static void (*const made)() = [] {
    void* place = ::mmap(nullptr, kCodeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) return static_cast<void (*)()>(nullptr);
    auto* bytes = static_cast<unsigned char*>(place);
    for (size_t line = 0; line + kLine < kCodeBytes; line += kLine) {
      bytes[line] = 0xeb;  // jmp to the next line
      bytes[line + 1] = kLine - 2;
    }
    bytes[kCodeBytes - kLine] = 0xc3;  // ret
    if (::mprotect(place, kCodeBytes, PROT_READ | PROT_EXEC) != 0) return static_cast<void (*)()>(nullptr);
    return reinterpret_cast<void (*)()>(place);
  }();
  return made;
#else
  return nullptr;
#endif
}

void alloc_and_free(bool cuda, size_t bytes) {
#ifdef WANHOOK_CUDA
  namespace caching = c10::cuda::CUDACachingAllocator;
  if (cuda) return caching::raw_delete(caching::raw_alloc(bytes));
#endif
  (void)cuda;
  c10::GetAllocator(c10::DeviceType::CPU)->allocate(bytes);
}

double spent_ns(bool cuda, size_t bytes) {
  Clock::now();  // its own code and data are not what is measured
  const auto begin = Clock::now();
  alloc_and_free(cuda, bytes);
  return std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
}

}  // namespace

// Leaves neither the first two levels of cache nor the TLBs with anything of the caller's.
extern "C" void evict() {
  volatile unsigned char* bytes = data();
  for (size_t page = 0; page < kPages; ++page) bytes[page * kPage] = static_cast<unsigned char>(page);
  for (size_t line = 0; line < kDataBytes; line += kLine) bytes[line] = static_cast<unsigned char>(line);
  if (code() != nullptr) code()();
}

// Median ns of one alloc and free, both clock readings included; `between` runs before each, unless it is null.
// Negative when the allocator refused.
extern "C" double cold_loop(int cuda, size_t bytes, long count, void (*between)()) {
  std::vector<double> spent;
  try {
    for (long index = 0; index < count; ++index) {
      if (between != nullptr) between();
      spent.push_back(spent_ns(cuda != 0, bytes));
    }
  } catch (...) {
    return -1;
  }
  std::nth_element(spent.begin(), spent.begin() + count / 2, spent.end());
  return spent[count / 2];
}
