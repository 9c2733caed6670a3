// A library that answers as NVML would on a host with three GPUs, for tests that put it in NVML's place.
//
//   GPU 0 "GPU-aaaa" at 0000:0A:00.0, GPU 1 "GPU-bbbb" at 0000:1B:00.0, GPU 2 "GPU-cccc" at 0000:2C:00.0. GPU 1 is the
//   one that is asked; it has NVLink to GPU 0 and not to GPU 2. Its SM clock is 1980 MHz and falls by 10 a question.
//
// Defined at compile time: FAKE_OLD (a driver of before 535), FAKE_NO_POWER (power cannot be read), FAKE_SLOW (20 ms an
// answer), FAKE_BROKEN (does not start), FAKE_EMPTY (has no GPU at all).
#include <strings.h>
#include <unistd.h>

#include <cstring>

namespace {

struct Gpu {
  const char* pci_bus_id;
  const char* uuid;
};
Gpu gpus[] = {{"0000:0A:00.0", "GPU-aaaa"}, {"0000:1B:00.0", "GPU-bbbb"}, {"0000:2C:00.0", "GPU-cccc"}};
constexpr int kNotFound = 6;
constexpr int kNotSupported = 3;

unsigned sm_clock = 1990;

int answer(unsigned* place, unsigned value) {
#ifdef FAKE_SLOW
  ::usleep(20'000);
#endif
  *place = value;
  return 0;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) int

EXPORT nvmlInit_v2() {
#ifdef FAKE_BROKEN
  return 999;
#else
  return 0;
#endif
}

EXPORT nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
#ifndef FAKE_EMPTY
  for (Gpu& gpu : gpus) {
    if (::strcasecmp(gpu.pci_bus_id, id) != 0) continue;
    *device = &gpu;
    return 0;
  }
#endif
  return kNotFound;
}

EXPORT nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &gpus[index];
  return index < 3 ? 0 : kNotFound;
}

EXPORT nvmlDeviceGetCount_v2(unsigned* count) { return answer(count, 3); }

EXPORT nvmlDeviceGetUUID(void* device, char* text, unsigned size) {
  std::strncpy(text, static_cast<Gpu*>(device)->uuid, size);
  return 0;
}

EXPORT nvmlDeviceGetClockInfo(void* device, int type, unsigned* megahertz) {
  if (device != &gpus[1]) return kNotFound;
  if (type == 1) return answer(megahertz, sm_clock -= 10);
  return type == 2 ? answer(megahertz, 3201) : kNotSupported;
}

EXPORT nvmlDeviceGetMaxClockInfo(void*, int type, unsigned* megahertz) {
  return type == 1 ? answer(megahertz, 1980) : kNotSupported;
}

#ifdef FAKE_OLD
EXPORT nvmlDeviceGetCurrentClocksThrottleReasons(void*, unsigned long long* reasons) {
  *reasons = 0x20;
  return 0;
}
#else
EXPORT nvmlDeviceGetCurrentClocksEventReasons(void*, unsigned long long* reasons) {
  *reasons = 0x4;
  return 0;
}
#endif

EXPORT nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) {
#ifdef FAKE_NO_POWER
  (void)milliwatts;
  return kNotSupported;
#else
  return answer(milliwatts, 612'345);
#endif
}

EXPORT nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) { return answer(milliwatts, 700'000); }

EXPORT nvmlDeviceGetTemperature(void*, int sensor, unsigned* celsius) {
  return sensor == 0 ? answer(celsius, 64) : kNotSupported;
}

EXPORT nvmlDeviceGetTemperatureThreshold(void*, int which, unsigned* celsius) {
  return which == 1 ? answer(celsius, 89) : kNotSupported;
}

EXPORT nvmlDeviceGetCurrPcieLinkGeneration(void*, unsigned* value) { return answer(value, 5); }
EXPORT nvmlDeviceGetCurrPcieLinkWidth(void*, unsigned* value) { return answer(value, 8); }
EXPORT nvmlDeviceGetMaxPcieLinkGeneration(void*, unsigned* value) { return answer(value, 5); }
EXPORT nvmlDeviceGetMaxPcieLinkWidth(void*, unsigned* value) { return answer(value, 16); }

EXPORT nvmlDeviceGetNvLinkState(void*, unsigned link, unsigned* active) {
  return link < 4 ? answer(active, link < 3 ? 1 : 0) : kNotSupported;
}

EXPORT nvmlDeviceGetP2PStatus(void*, void* other, int capability, int* status) {
  *status = other == &gpus[0] ? 0 : 5;
  return capability == 2 ? 0 : kNotSupported;
}

EXPORT nvmlDeviceGetTopologyCommonAncestor(void*, void* other, int* level) {
  *level = other == &gpus[0] ? 40 : 50;
  return 0;
}
