// Rounds of the device sampler with a clock of its own, on whatever NVML the loader finds; this process uses "device
// 3", the GPU at 0000:1B:00.0. tests/integration/test_device_samples.py puts a made-up NVML there and reads the file.
//
//   device_samples TRACE             a minute of rounds every 10 ms; the gate is closed in the second half of it
//   device_samples                   the same in a fresh directory, to be run under a sanitizer
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "device/device_sampler.h"
#include "writers.h"

namespace wanhook::test {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kRound = 10'000'000;

std::vector<DeviceInUse> devices_in_use() { return {{3, "0000:1B:00.0"}}; }

void run(const std::string& trace) {
  static auto* sampler = new DeviceSampler(&devices_in_use);
  Recording* recording = start_recording(trace);
  for (int64_t now = 0; now < 60 * kSecond; now += kRound) {
    if (now == 30 * kSecond) EXPECT(Recorder::get().pause() == GateResult::kOk);
    sampler->round(now);
  }
  finish_recording(recording);
}

}  // namespace
}  // namespace wanhook::test

int main(int count, char** arguments) {
  if (count == 2) {
    wanhook::test::run(arguments[1]);
    return 0;
  }
  std::string pattern = (std::filesystem::temp_directory_path() / "wanhook-samples-XXXXXX").string();
  const std::filesystem::path directory = ::mkdtemp(pattern.data());
  // Twice: the second recording of a process gets what was asked once too.
  wanhook::test::run(directory / "first.wanhook");
  wanhook::test::run(directory / "second.wanhook");
  std::filesystem::remove_all(directory);
  std::puts("device_samples: passed");
  return 0;
}
