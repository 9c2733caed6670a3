// Clocks, clock event reasons, power and temperature of the GPUs that this process uses, once a second, by NVML; and
// once in each recording what they are connected to.
//
// The resolver's duty, and asked in its rounds: NVML can take its time, so how long it took decides when it is asked
// again, and what is asked once is spread over rounds. It holds no lock that a hook could wait for. Any failure leaves
// out what failed and one note in the meta object.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "core/recording.h"
#include "device/gpu_topology.h"
#include "device/nvml.h"
#include "device/span_timer.h"

namespace wanhook {

class DeviceSampler {
 public:
  using DevicesInUse = std::vector<DeviceInUse> (*)();

  // A GPU is matched by its PCI bus id: CUDA_VISIBLE_DEVICES gives devices other numbers than NVML's.
  explicit DeviceSampler(DevicesInUse devices_in_use) : devices_in_use_(devices_in_use) {}

  // `now`: ns, CLOCK_MONOTONIC. Does nothing while the gate is closed.
  void round(int64_t now) noexcept;

 private:
  struct Sampled {
    int index;
    nvml::Device handle;
    GpuTopology topology;
    bool described;  // in the present recording
  };

  void begin(Recording* recording, int64_t now);
  void find_new_devices(Recording* recording);
  void sample(const Sampled& device, Recording* recording);
  void describe_some(Recording* recording);
  void note(Recording* recording, const std::string& sentence);

  const DevicesInUse devices_in_use_;
  Recording* recording_ = nullptr;  // the one that the next four are about
  int64_t due_ = 0;                 // ns, CLOCK_MONOTONIC
  bool noted_ = false;

  const nvml::Functions* nvml_ = nullptr;
  bool loaded_ = false;
  std::deque<Sampled> devices_;
  std::vector<int> not_found_;  // devices that NVML does not know
  std::string trouble_;         // the note
};

}  // namespace wanhook
