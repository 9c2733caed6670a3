// What a GPU is connected to and what limits it has, read once: the part of the meta object that NVML knows.
#pragma once

#include <string>

#include "device/nvml.h"

namespace wanhook {

// Asks step by step, because a GPU that nobody uses can take a second to answer: one step is the GPU itself or one of
// the others. The resolver's thread.
class GpuTopology {
 public:
  GpuTopology(const nvml::Functions* functions, nvml::Device device, std::string pci_bus_id)
      : nvml_(functions), device_(device), pci_bus_id_(std::move(pci_bus_id)) {}

  // False when everything has been asked.
  bool step() noexcept;
  // A JSON object (docs/trace-format.md, key `gpus`), once all steps are done. What could not be read is left out.
  std::string json() const;

 private:
  void describe_itself();
  void describe_peer(unsigned index);

  const nvml::Functions* nvml_;
  nvml::Device device_;
  std::string pci_bus_id_;
  std::string uuid_;
  std::string itself_;  // JSON members
  std::string peers_;
  unsigned peer_count_ = 0;
  unsigned steps_ = 0;
};

}  // namespace wanhook
