#include "device/nvml.h"

#include <dlfcn.h>

namespace wanhook::nvml {
namespace {

class Library {
 public:
  Library() noexcept : handle_(::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {}
  bool loaded() const noexcept { return handle_ != nullptr; }

  // The first of the names that the library has: newer ones come first.
  template <class Function>
  void find(Function** function, const char* name, const char* older_name = nullptr) const noexcept {
    void* symbol = ::dlsym(handle_, name);
    if (symbol == nullptr && older_name != nullptr) symbol = ::dlsym(handle_, older_name);
    *function = reinterpret_cast<Function*>(symbol);
  }

 private:
  void* handle_;
};

Functions find_all(const Library& library) noexcept {
  Functions found{};
  library.find(&found.init, "nvmlInit_v2");
  library.find(&found.device_by_pci_bus_id, "nvmlDeviceGetHandleByPciBusId_v2");
  library.find(&found.device_by_index, "nvmlDeviceGetHandleByIndex_v2");
  library.find(&found.device_count, "nvmlDeviceGetCount_v2");
  library.find(&found.uuid, "nvmlDeviceGetUUID");
  library.find(&found.clock, "nvmlDeviceGetClockInfo");
  library.find(&found.max_clock, "nvmlDeviceGetMaxClockInfo");
  library.find(&found.clock_event_reasons, "nvmlDeviceGetCurrentClocksEventReasons",
               "nvmlDeviceGetCurrentClocksThrottleReasons");
  library.find(&found.power, "nvmlDeviceGetPowerUsage");
  library.find(&found.power_limit, "nvmlDeviceGetEnforcedPowerLimit");
  library.find(&found.temperature, "nvmlDeviceGetTemperature");
  library.find(&found.temperature_threshold, "nvmlDeviceGetTemperatureThreshold");
  library.find(&found.pcie_generation, "nvmlDeviceGetCurrPcieLinkGeneration");
  library.find(&found.pcie_width, "nvmlDeviceGetCurrPcieLinkWidth");
  library.find(&found.max_pcie_generation, "nvmlDeviceGetMaxPcieLinkGeneration");
  library.find(&found.max_pcie_width, "nvmlDeviceGetMaxPcieLinkWidth");
  library.find(&found.nvlink_state, "nvmlDeviceGetNvLinkState");
  library.find(&found.peer_status, "nvmlDeviceGetP2PStatus");
  library.find(&found.common_ancestor, "nvmlDeviceGetTopologyCommonAncestor");
  return found;
}

const Functions* load_once() noexcept {
  const Library library;
  if (!library.loaded()) return nullptr;
  static Functions functions;
  functions = find_all(library);
  return ask(functions.init) ? &functions : nullptr;
}

}  // namespace

const Functions* load() noexcept {
  static const Functions* const functions = load_once();
  return functions;
}

}  // namespace wanhook::nvml
