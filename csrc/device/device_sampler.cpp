#include "device/device_sampler.h"

#include <algorithm>
#include <limits>

#include "core/clock.h"
#include "core/recorder.h"

namespace wanhook {
namespace {

using nvml::ask;

constexpr int64_t kPeriod = 1'000'000'000;
// Short recordings, those of tests among them, do without the library's start, which can take a tenth of a second.
constexpr int64_t kFirst = 500'000'000;
// Of its time the resolver may spend one part in this many on NVML: from 5 ms a sample on they are further apart.
constexpr int64_t kPartOfTime = 200;

enum Valid : uint8_t { kClocks = 1, kThrottle = 2, kPower = 4, kTemperature = 8 };

uint32_t clamped(int64_t nanoseconds) {
  return static_cast<uint32_t>(std::min<int64_t>(nanoseconds, std::numeric_limits<uint32_t>::max()));
}

std::string missing_parts(uint8_t valid) {
  std::string parts;
  const auto add = [&](uint8_t bit, const char* name) {
    if ((valid & bit) == 0) parts.append(parts.empty() ? "" : ", ").append(name);
  };
  add(kClocks, "clocks");
  add(kThrottle, "clock event reasons");
  add(kPower, "power");
  add(kTemperature, "temperature");
  return parts;
}

}  // namespace

void DeviceSampler::round(int64_t now) noexcept {
  Recording* recording = Recorder::active();
  if (recording == nullptr) return;
  if (recording != recording_) begin(recording, now);
  if (now < due_) {
    describe_some(recording);
    return;
  }
  const int64_t began = read_clock(CLOCK_MONOTONIC);
  find_new_devices(recording);
  for (const Sampled& device : devices_) sample(device, recording);
  due_ = now + std::max(kPeriod, kPartOfTime * (read_clock(CLOCK_MONOTONIC) - began));
}

void DeviceSampler::begin(Recording* recording, int64_t now) {
  recording_ = recording;
  due_ = now + kFirst;
  for (Sampled& device : devices_) device.described = false;
  noted_ = false;
  if (!trouble_.empty()) note(recording, trouble_);
}

void DeviceSampler::find_new_devices(Recording* recording) {
  for (const DeviceInUse& used : devices_in_use_()) {
    const bool known = std::any_of(devices_.begin(), devices_.end(),
                                   [&](const Sampled& device) { return device.index == used.index; });
    if (known || std::count(not_found_.begin(), not_found_.end(), used.index) != 0) continue;
    if (!loaded_) nvml_ = nvml::load();
    loaded_ = true;
    nvml::Device handle = nullptr;
    if (nvml_ != nullptr && ask(nvml_->device_by_pci_bus_id, used.pci_bus_id.c_str(), &handle)) {
      devices_.push_back({used.index, handle, GpuTopology(nvml_, handle, used.pci_bus_id), false});
      continue;
    }
    not_found_.push_back(used.index);
    note(recording, nvml_ == nullptr ? "GPU clocks, power and temperature: NVML cannot be loaded on this machine."
                                     : "GPU clocks, power and temperature of device " + std::to_string(used.index) +
                                           ": NVML does not know it.");
  }
}

void DeviceSampler::sample(const Sampled& device, Recording* recording) {
  DeviceSampleRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kDeviceSample);
  record.device = static_cast<int8_t>(device.index);
  record.tick = tick_now();
  const int64_t began = read_clock(CLOCK_MONOTONIC);
  unsigned sm_clock = 0;
  unsigned memory_clock = 0;
  if (ask(nvml_->clock, device.handle, nvml::kSmClock, &sm_clock) &&
      ask(nvml_->clock, device.handle, nvml::kMemoryClock, &memory_clock)) {
    record.valid |= kClocks;
    record.sm_clock = sm_clock;
    record.memory_clock = memory_clock;
  }
  unsigned long long reasons = 0;
  if (ask(nvml_->clock_event_reasons, device.handle, &reasons)) record.valid |= kThrottle;
  unsigned power = 0;
  if (ask(nvml_->power, device.handle, &power)) record.valid |= kPower;
  unsigned temperature = 0;
  if (ask(nvml_->temperature, device.handle, nvml::kGpuTemperature, &temperature)) record.valid |= kTemperature;
  record.throttle = (record.valid & kThrottle) != 0 ? reasons : 0;
  record.power = (record.valid & kPower) != 0 ? power : 0;
  record.temperature = (record.valid & kTemperature) != 0 ? temperature : 0;
  record.cost = clamped(read_clock(CLOCK_MONOTONIC) - began);
  recording->append_cold(record);
  const std::string missing = missing_parts(record.valid);
  if (!missing.empty()) {
    note(recording, "NVML does not tell of device " + std::to_string(device.index) + ": " + missing + ".");
  }
}

// One question a round at most.
void DeviceSampler::describe_some(Recording* recording) {
  for (Sampled& device : devices_) {
    if (device.topology.step()) return;
    if (device.described) continue;
    device.described = true;
    recording->append_meta("{\"gpus\":{\"" + std::to_string(device.index) + "\":" + device.topology.json() + "}}");
    return;
  }
}

void DeviceSampler::note(Recording* recording, const std::string& sentence) {
  if (noted_) return;
  noted_ = true;
  trouble_ = sentence;
  recording->append_meta("{\"notes\":[\"" + sentence + "\"]}");
}

}  // namespace wanhook
