#include "core/disk.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

namespace wanhook::disk {
namespace {

std::atomic<int> fault_error{0};
std::atomic<int64_t> fault_after{0};

int injected_fault() noexcept {
  const int error = fault_error.load(std::memory_order_relaxed);
  if (error == 0) return 0;
  return fault_after.fetch_sub(1, std::memory_order_relaxed) <= 0 ? error : 0;
}

uint64_t file_size_limit() noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  return limit.rlim_cur;
}

}  // namespace

void inject_fault(int64_t after, int error) noexcept {
  fault_after.store(after, std::memory_order_relaxed);
  fault_error.store(error, std::memory_order_relaxed);
}

int create(const std::string& path, int* fd) noexcept {
  if (const int error = injected_fault()) return error;
  do {
    *fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  } while (*fd < 0 && errno == EINTR);
  return *fd < 0 ? errno : 0;
}

int truncate(int fd, uint64_t size) noexcept {
  int result = 0;
  do {
    result = ::ftruncate(fd, static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

int allocate(int fd, uint64_t begin, uint64_t end) noexcept {
  if (const int error = injected_fault()) return error;
  if (end > file_size_limit()) return EFBIG;
  int error = 0;
  do {
    error = posix_fallocate(fd, static_cast<off_t>(begin), static_cast<off_t>(end - begin));
  } while (error == EINTR);
  // ext4 leaves the file extended, without blocks behind it, when the disk is full: a store there would be SIGBUS.
  if (error != 0) truncate(fd, begin);
  return error;
}

int map(int fd, uint64_t bytes, void** address) noexcept {
  if (const int error = injected_fault()) return error;
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (mapped == MAP_FAILED) return errno;
  *address = mapped;
  return 0;
}

uint64_t address_space_to_spare() noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  FILE* status = std::fopen("/proc/self/statm", "re");
  if (status == nullptr) return UINT64_MAX;
  unsigned long long pages = 0;
  if (std::fscanf(status, "%llu", &pages) != 1) pages = 0;
  std::fclose(status);
  const uint64_t in_use = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return limit.rlim_cur > in_use ? (limit.rlim_cur - in_use) / 8 : 0;
}

void populate(void* address, uint64_t bytes) noexcept {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;
#endif
  if (::madvise(address, bytes, MADV_POPULATE_WRITE) == 0) return;
  // Before Linux 5.14: nobody else has this range yet, so touching it is the same.
  auto* bytes_of_range = static_cast<volatile unsigned char*>(address);
  for (uint64_t offset = 0; offset < bytes; offset += 4096) bytes_of_range[offset] = 0;
}

}  // namespace wanhook::disk
