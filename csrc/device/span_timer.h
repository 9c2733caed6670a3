// Times stretches of GPU streams by pairs of pooled CUDA events.
//
// begin() and end() run on the threads of the host program: they record one event each on the stream they are given,
// take no lock, and never synchronise. A pool for each device hands out pairs; they are created when a device is first
// timed, never at attach time, because creating one makes a context. resolve() belongs to the resolver thread: it asks
// only for what can have finished and writes GpuSpanRecords.
//
// CPU builds have a twin that times nothing: there the host's clock is the only one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/record.h"

namespace wanhook {

class Recording;

struct StreamRef {
  int device = -1;         // -1: there is no stream to time
  bool capturing = false;  // work goes into a CUDA graph: never timed, an event there would belong to the graph
  bool current = false;    // the device is the calling thread's current one
  void* stream = nullptr;  // cudaStream_t
};

// A device whose streams this process has timed.
struct DeviceInUse {
  int index;               // CUDA's
  std::string pci_bus_id;  // the same in every process, and NVML's
};

class SpanTimer {
 public:
  // Number of a running pair, 0 when none could be had (untimed).
  [[gnu::hot]] static uint32_t begin(Recording* recording, StreamRef stream) noexcept;
  // Records the end event on the stream noted at begin and hands the pair to the resolver.
  [[gnu::hot]] static void end(uint32_t timer, SpanOwner owner_type, uint32_t owner) noexcept;
  // Gives the pair back without a span.
  static void abandon(uint32_t timer) noexcept;

  // The resolver's round: writes the spans that are done; makes clock anchors about once a second. Returns whether
  // pairs are still pending.
  static bool resolve() noexcept;
  // Writes GPU anchors for each device that is in use into a recording that is about to be finished.
  static void write_final_anchors(Recording* recording) noexcept;
  // The resolver's part too.
  static std::vector<DeviceInUse> devices_in_use();
  // Pairs that are running or wait for the resolver, over all devices.
  static uint32_t outstanding() noexcept;
};

// What only the torch layer can tell or do.
struct StreamProvider {
  // The stream that the calling thread works on; device -1 while CUDA is not initialised.
  StreamRef (*current)() noexcept = nullptr;
  // Make a device current, and the one before again. A plain cudaSetDevice on the way back would give a device that the
  // process never used a context.
  int (*enter_device)(int device) noexcept = nullptr;
  void (*leave_device)(int previous) noexcept = nullptr;
};
void set_stream_provider(const StreamProvider* provider) noexcept;
const StreamProvider* stream_provider() noexcept;

inline StreamRef current_stream() noexcept {
  const StreamProvider* provider = stream_provider();
  return provider == nullptr ? StreamRef{} : provider->current();
}

}  // namespace wanhook
