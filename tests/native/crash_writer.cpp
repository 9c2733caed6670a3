// A recording process that is made to be killed: four threads append numbered records without end, and each publishes
// how many it has appended in a second shared mapping after each one. tests/integration/test_kill.py kills it at random
// moments and looks whether at least the published records are in the trace.
//
//   crash_writer TRACE PUBLISHED     prints "started" once every thread has written; ends only by a signal
//   crash_writer                     a short recording in a fresh directory, to be run under a sanitizer
//
// PUBLISHED is made here: one little-endian uint64 for each thread.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "writers.h"

namespace wanhook::test {
namespace {

constexpr uint32_t kThreads = 4;
constexpr uint64_t kCapacity = uint64_t{256} << 20;

using Published = std::atomic<uint64_t>[kThreads];

Published* map_published(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  EXPECT(fd >= 0 && ::ftruncate(fd, sizeof(Published)) == 0);
  void* address = ::mmap(nullptr, sizeof(Published), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT(address != MAP_FAILED);
  ::close(fd);
  return static_cast<Published*>(address);
}

// Which process on which host this is, so that the reader can tell that it is gone.
void describe_process(Recording* recording) {
  char host[HOST_NAME_MAX + 1] = {};
  ::gethostname(host, sizeof(host) - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  const std::string json = std::string("{\"process\":{\"host\":\"") + host + "\",\"boot_id\":\"" + boot + "\"}}";
  MetaRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kMeta);
  record.tick = tick_now();
  record.text_bytes = static_cast<uint32_t>(json.size());
  EXPECT(recording->append_cold(record, json));
}

// A number that finds no room is tried again, so that each thread's numbers have no gap.
void write_numbers(Recording* recording, uint32_t writer, uint32_t name, std::atomic<uint64_t>* published,
                   const std::atomic<bool>* done) {
  for (uint64_t number = 1; !done->load(std::memory_order_relaxed); ++number) {
    while (!append_numbered(recording, writer, number, name)) ::sched_yield();
    published->store(number, std::memory_order_release);
    // Slow enough that the file can be read 200 times in half a minute, fast enough to take a new chunk every ms.
    if (number % 32 == 0) ::sched_yield();
    if (number % 1024 == 0) ::usleep(1000);
  }
}

void run(const std::string& trace, const std::string& published_path, bool until_killed) {
  Published* published = map_published(published_path);
  Recording* recording = start_recording(trace, kCapacity);
  describe_process(recording);
  const uint32_t name = Recorder::get().intern("a numbered mark");
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (uint32_t writer = 0; writer < kThreads; ++writer) {
    threads.emplace_back(write_numbers, recording, writer, name, &(*published)[writer], &done);
  }
  EXPECT(wait_until([&] {
    return std::all_of(*published, *published + kThreads, [](const auto& count) { return count.load() > 0; });
  }));
  std::puts("started");
  std::fflush(stdout);
  if (until_killed) wait_until([] { return false; });
  ::usleep(200'000);
  done.store(true);
  for (std::thread& thread : threads) thread.join();
  finish_recording(recording);
}

}  // namespace
}  // namespace wanhook::test

int main(int count, char** arguments) {
  if (count == 3) {
    wanhook::test::run(arguments[1], arguments[2], /*until_killed=*/true);
    return 1;
  }
  std::string pattern = (std::filesystem::temp_directory_path() / "wanhook-crash-XXXXXX").string();
  const std::filesystem::path directory = ::mkdtemp(pattern.data());
  wanhook::test::run(directory / "crash.wanhook", directory / "published", /*until_killed=*/false);
  std::filesystem::remove_all(directory);
  std::puts("crash_writer: passed");
  return 0;
}
