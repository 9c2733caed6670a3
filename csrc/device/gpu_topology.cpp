#include "device/gpu_topology.h"

#include <algorithm>
#include <cctype>

namespace wanhook {
namespace {

using nvml::ask;

void add_member(std::string* json, const char* name, const std::string& value) {
  if (!json->empty()) json->push_back(',');
  json->append("\"").append(name).append("\":").append(value);
}

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

// A number that a function of (device, ..., unsigned*) gives.
template <class... Parameters, class... Arguments>
void add_number(std::string* json, const char* name, nvml::Result (*function)(Parameters...), Arguments... arguments) {
  unsigned value = 0;
  if (ask(function, arguments..., &value)) add_member(json, name, std::to_string(value));
}

std::string uuid_of(const nvml::Functions* nvml, nvml::Device device) {
  char text[96] = {};
  if (!ask(nvml->uuid, device, text, static_cast<unsigned>(sizeof(text) - 1))) return {};
  const std::string uuid = text;
  const bool harmless =
      std::all_of(uuid.begin(), uuid.end(), [](unsigned char c) { return std::isalnum(c) || c == '-'; });
  return harmless ? uuid : std::string();
}

// nvmlGpuTopologyLevel_t
const char* path_name(int level) {
  switch (level) {
    case 0:
      return "same board";
    case 10:
      return "one PCIe switch";
    case 20:
      return "several PCIe switches";
    case 30:
      return "host bridge";
    case 40:
      return "same NUMA node";
    case 50:
      return "across NUMA nodes";
    default:
      return nullptr;
  }
}

}  // namespace

bool GpuTopology::step() noexcept {
  if (steps_ > peer_count_) return false;
  if (steps_ == 0) {
    describe_itself();
  } else {
    describe_peer(steps_ - 1);
  }
  ++steps_;
  return true;
}

void GpuTopology::describe_itself() {
  uuid_ = uuid_of(nvml_, device_);
  std::string pcie;
  add_number(&pcie, "generation", nvml_->pcie_generation, device_);
  add_number(&pcie, "width", nvml_->pcie_width, device_);
  add_number(&pcie, "max_generation", nvml_->max_pcie_generation, device_);
  add_number(&pcie, "max_width", nvml_->max_pcie_width, device_);
  add_member(&itself_, "pci_bus_id", quoted(pci_bus_id_));
  if (!uuid_.empty()) add_member(&itself_, "uuid", quoted(uuid_));
  add_member(&itself_, "pcie", "{" + pcie + "}");
  add_number(&itself_, "max_sm_clock", nvml_->max_clock, device_, nvml::kSmClock);
  add_number(&itself_, "power_limit", nvml_->power_limit, device_);
  add_number(&itself_, "slowdown_temperature", nvml_->temperature_threshold, device_, nvml::kSlowdownThreshold);
  add_number(&itself_, "max_temperature", nvml_->temperature_threshold, device_, nvml::kGpuMaxThreshold);
  unsigned links = 0;
  for (unsigned link = 0; link < nvml::kMostNvLinks; ++link) {
    nvml::FeatureState state{};
    if (ask(nvml_->nvlink_state, device_, link, &state) && state == nvml::kFeatureEnabled) ++links;
  }
  add_member(&itself_, "nvlinks", std::to_string(links));
  if (!ask(nvml_->device_count, &peer_count_)) peer_count_ = 0;
}

void GpuTopology::describe_peer(unsigned index) {
  nvml::Device other = nullptr;
  if (!ask(nvml_->device_by_index, index, &other)) return;
  const std::string uuid = uuid_of(nvml_, other);
  if (uuid.empty() || uuid == uuid_) return;
  std::string peer;
  nvml::PeerStatus status = nvml::kPeerUnknown;
  if (ask(nvml_->peer_status, device_, other, nvml::kPeerByNvLink, &status) && status != nvml::kPeerUnknown) {
    add_member(&peer, "nvlink", status == nvml::kPeerOk ? "true" : "false");
  }
  int level = -1;
  if (ask(nvml_->common_ancestor, device_, other, &level) && path_name(level) != nullptr) {
    add_member(&peer, "path", quoted(path_name(level)));
  }
  add_member(&peers_, uuid.c_str(), "{" + peer + "}");
}

std::string GpuTopology::json() const { return "{" + itself_ + ",\"peers\":{" + peers_ + "}}"; }

}  // namespace wanhook
