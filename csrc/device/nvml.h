// The few functions of NVIDIA's management library that we ask, found at run time: a machine without the library, or
// with one that lacks some of them, records less and nothing else.
//
// They are declared here, by the C interface that NVIDIA documents and keeps, so that building needs no nvml.h. Null:
// the library does not have it. Any call may take long: for the resolver's thread only, and never with a lock held.
#pragma once

namespace wanhook::nvml {

using Device = void*;  // nvmlDevice_t
using Result = int;    // nvmlReturn_t, 0 for success

enum ClockType : int { kSmClock = 1, kMemoryClock = 2 };
enum TemperatureSensor : int { kGpuTemperature = 0 };
enum TemperatureThreshold : int { kSlowdownThreshold = 1, kGpuMaxThreshold = 3 };
enum PeerCapability : int { kPeerByNvLink = 2 };
enum PeerStatus : int { kPeerOk = 0, kPeerUnknown = 6 };
enum FeatureState : int { kFeatureEnabled = 1 };
inline constexpr unsigned kMostNvLinks = 18;

struct Functions {
  Result (*init)();
  Result (*device_by_pci_bus_id)(const char* id, Device* device);
  Result (*device_by_index)(unsigned index, Device* device);
  Result (*device_count)(unsigned* count);
  Result (*uuid)(Device device, char* text, unsigned size);
  Result (*clock)(Device device, ClockType type, unsigned* megahertz);
  Result (*max_clock)(Device device, ClockType type, unsigned* megahertz);
  Result (*clock_event_reasons)(Device device, unsigned long long* reasons);
  Result (*power)(Device device, unsigned* milliwatts);
  Result (*power_limit)(Device device, unsigned* milliwatts);
  Result (*temperature)(Device device, TemperatureSensor sensor, unsigned* celsius);
  Result (*temperature_threshold)(Device device, TemperatureThreshold which, unsigned* celsius);
  Result (*pcie_generation)(Device device, unsigned* generation);
  Result (*pcie_width)(Device device, unsigned* lanes);
  Result (*max_pcie_generation)(Device device, unsigned* generation);
  Result (*max_pcie_width)(Device device, unsigned* lanes);
  Result (*nvlink_state)(Device device, unsigned link, FeatureState* state);
  Result (*peer_status)(Device device, Device other, PeerCapability capability, PeerStatus* status);
  Result (*common_ancestor)(Device device, Device other, int* level);
};

// Loads the library and initialises it; null when either fails. It stays loaded for the life of the process.
const Functions* load() noexcept;

// Whether the library has the function and gave the answer.
template <class... Parameters, class... Arguments>
bool ask(Result (*function)(Parameters...), Arguments... arguments) noexcept {
  return function != nullptr && function(arguments...) == 0;
}

}  // namespace wanhook::nvml
