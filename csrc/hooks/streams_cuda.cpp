#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <atomic>

#include "hooks/streams.h"

namespace wanhook {
namespace {

constexpr int kMaxDevices = 64;
std::atomic<bool> has_context[kMaxDevices];

// Before a rank has chosen its device, device 0 is current; an event there would give every rank a context on it.
bool in_use(int device) {
  if (device < 0 || device >= kMaxDevices) return false;
  if (has_context[device].load(std::memory_order_relaxed)) return true;
  if (!c10::cuda::hasPrimaryContext(static_cast<c10::DeviceIndex>(device))) return false;
  has_context[device].store(true, std::memory_order_relaxed);
  return true;
}

StreamRef describe(const c10::cuda::CUDAStream& stream) noexcept {
  const cudaStream_t handle = stream.stream();  // each call of it goes through a device guard
  StreamRef reference;
  reference.device = stream.device_index();
  reference.stream = handle;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(handle, &capture) != cudaSuccess) {
    // The legacy stream answers with an error while another stream that it would wait for is being captured.
    cudaGetLastError();
    reference.capturing = true;
  } else {
    reference.capturing = capture != cudaStreamCaptureStatusNone;
  }
  return reference;
}

[[gnu::hot]] StreamRef current_stream_of_current_device() noexcept { return stream_on_device(-1); }

// A guard that cannot go back to a device without a context leaves its own one current and has torch remember the
// other: the thread's next work goes there, as soon as some thread has made that context.
int device_of_next_work(int current) {
  c10::DeviceIndex remembered = -1;
  if (c10::cuda::GetDevice(&remembered) != cudaSuccess) {
    cudaGetLastError();
    return current;
  }
  return remembered != current && in_use(remembered) ? remembered : current;
}

int current_runtime_device() noexcept {
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) cudaGetLastError();
  return device;
}

int enter_device(int device) noexcept {
  try {
    return c10::cuda::ExchangeDevice(static_cast<c10::DeviceIndex>(device));
  } catch (...) {
    return -1;
  }
}

void leave_device(int previous) noexcept {
  try {
    c10::cuda::MaybeExchangeDevice(static_cast<c10::DeviceIndex>(previous));
  } catch (...) {
    // Then the device stays current that was entered; the host program's next guard sets its own.
  }
}

constexpr StreamProvider kProvider{&current_stream_of_current_device, &enter_device, &leave_device};

}  // namespace

StreamRef stream_on_device(int device) noexcept {
  try {
    const int current = current_runtime_device();
    if (device < 0) device = device_of_next_work(current);
    // Asked first, as the first question for a stream makes a context on the current device.
    if (!in_use(device)) return {};
    // And so does the question whether it is being captured, on a thread that has not chosen its device.
    const int previous = current == device ? -1 : enter_device(device);
    StreamRef reference = describe(c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)));
    reference.current = current == device;
    if (previous >= 0) leave_device(previous);
    return reference;
  } catch (...) {
    return {};
  }
}

void provide_current_stream() noexcept { set_stream_provider(&kProvider); }

}  // namespace wanhook
