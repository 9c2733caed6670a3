// The CUDA runtime, as far as torch calls it.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "gpu.h"

using namespace made_gpu;

namespace {

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t handle) {
  wait_for_room(handle);
  const Locked locked;
  Machine& machine = locked.machine;
  Stream* stream = machine.stream_of(handle);
  if (stream->capture != nullptr) return cudaSuccess;
  const uint64_t moved = std::min<uint64_t>(bytes, kMovedBytes);
  const bool host = machine.device_of(from) < 0;
  // What comes from pageable memory is taken before the call returns.
  const auto pinned = machine.pinned.upper_bound(reinterpret_cast<uint64_t>(from));
  const bool is_pinned = pinned != machine.pinned.begin() &&
                         reinterpret_cast<uint64_t>(from) < std::prev(pinned)->first + std::prev(pinned)->second;
  std::shared_ptr<std::vector<char>> taken;
  if (host && !is_pinned) {
    const char* begin = static_cast<const char*>(from);
    taken = std::make_shared<std::vector<char>>(begin, begin + moved);
  }
  machine.issue(stream, [=](int64_t* time) {
    std::memmove(to, taken == nullptr ? from : taken->data(), moved);
    *time += copy_nanoseconds(bytes);
    return true;
  });
  return cudaSuccess;
}

cudaError_t synchronous_copy(void* to, const void* from, size_t bytes) {
  const cudaError_t error = copy(to, from, bytes, nullptr);
  return error == cudaSuccess ? wait_for_stream(nullptr) : error;
}

cudaError_t set(void* address, int value, size_t bytes, cudaStream_t handle) {
  wait_for_room(handle);
  const Locked locked;
  Stream* stream = locked.machine.stream_of(handle);
  if (stream->capture != nullptr) return cudaSuccess;
  locked.machine.issue(stream, [=](int64_t* time) {
    std::memset(address, value, std::min<uint64_t>(bytes, kMovedBytes));
    *time += kernel_nanoseconds();
    return true;
  });
  return cudaSuccess;
}

}  // namespace

extern "C" {

// Devices -------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = Machine::get().devices;
  return *count > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* number) {
  *number = current_device;
  return Machine::get().devices > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int number) {
  const Locked locked;
  if (number < 0 || number >= locked.machine.devices) return fail(cudaErrorInvalidDevice);
  current_device = number;
  locked.machine.use(number);  // since CUDA 12 this makes the context
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "Made-up GPU");
  std::memset(properties->uuid.bytes, number + 1, sizeof properties->uuid.bytes);
  properties->totalGlobalMem = device_bytes();
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->sharedMemPerBlock = 49152;
  properties->sharedMemPerBlockOptin = 232448;
  properties->sharedMemPerMultiprocessor = 233472;
  properties->l2CacheSize = 60 << 20;
  properties->pciBusID = number + 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  static const std::map<cudaDeviceAttr, int> known = {
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrMultiProcessorCount, 132},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrMaxGridDimX, 2147483647},
      {cudaDevAttrMaxGridDimY, 65535},
      {cudaDevAttrMaxGridDimZ, 65535},
      {cudaDevAttrMaxBlockDimX, 1024},
      {cudaDevAttrMaxSharedMemoryPerBlock, 49152},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472},
  };
  const auto found = known.find(attribute);
  *value = found == known.end() ? 0 : found->second;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int number) {
  std::snprintf(text, static_cast<size_t>(length), "0000:%02X:00.0", number + 1);
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned int) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  std::map<Stream*, uint64_t> targets;
  {
    const Locked locked;
    if (forbidden_by_capture(locked.machine)) return fail(cudaErrorStreamCaptureUnsupported);
    for (Stream* stream : locked.machine.use(current_device).streams) targets[stream] = stream->issued;
  }
  wait_until([&](Machine& machine) {
    for (Stream* stream : machine.device[current_device].streams) {
      const auto target = targets.find(stream);
      if (target == targets.end() || stream->done > target->second) continue;
      if (stream->done < target->second || stream->time > now()) return false;
    }
    return true;
  });
  return cudaSuccess;
}
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

// Errors --------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t) { return "an error of the made-up runtime"; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    default:
      return "an error of the made-up runtime";
  }
}

// Memory --------------------------------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Locked locked;
  *total = device_bytes();
  *free = device_bytes() - locked.machine.use(current_device).used;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** address, size_t bytes) {
  const Locked locked;
  if (forbidden_by_capture(locked.machine)) return fail(cudaErrorStreamCaptureUnsupported);
  if (!locked.machine.take(current_device, bytes)) return fail(cudaErrorMemoryAllocation);
  *address = reinterpret_cast<void*>(locked.machine.device[current_device].memory.take(bytes));
  return *address == nullptr ? fail(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  if (address == nullptr) return cudaSuccess;
  int number = -1;
  {
    const Locked locked;
    if (forbidden_by_capture(locked.machine)) return fail(cudaErrorStreamCaptureUnsupported);
    number = locked.machine.device_of(address);
  }
  if (number < 0) return fail(cudaErrorInvalidValue);
  cudaDeviceSynchronize();  // as cudaFree does, implicitly
  const Locked locked;
  Device& device = locked.machine.device[number];
  const uint64_t bytes = device.memory.give_back(reinterpret_cast<uint64_t>(address));
  madvise(address, bytes / 4096 * 4096, MADV_DONTNEED);
  device.used -= bytes;
  return bytes == 0 ? fail(cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned int) {
  *address = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*address == nullptr) return fail(cudaErrorMemoryAllocation);
  const Locked locked;
  locked.machine.pinned[reinterpret_cast<uint64_t>(*address)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) {
  {
    const Locked locked;
    locked.machine.pinned.erase(reinterpret_cast<uint64_t>(address));
  }
  std::free(address);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned int) {
  const Locked locked;
  locked.machine.pinned[reinterpret_cast<uint64_t>(address)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* address) {
  const Locked locked;
  locked.machine.pinned.erase(reinterpret_cast<uint64_t>(address));
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  const Locked locked;
  std::memset(attributes, 0, sizeof *attributes);
  const int number = locked.machine.device_of(address);
  attributes->device = number < 0 ? -2 : number;
  attributes->type = number >= 0 ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  if (number >= 0) attributes->devicePointer = const_cast<void*>(address);
  const auto where = reinterpret_cast<uint64_t>(address);
  const auto pinned = locked.machine.pinned.upper_bound(where);
  if (pinned != locked.machine.pinned.begin() && where < std::prev(pinned)->first + std::prev(pinned)->second) {
    attributes->type = cudaMemoryTypeHost;
    attributes->hostPointer = attributes->devicePointer = const_cast<void*>(address);
    attributes->device = current_device;
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const cudaError_t error = copy(to, from, bytes, stream);
  // Into pageable memory it is done when the call returns.
  bool pinned = true;
  if (kind == cudaMemcpyDeviceToHost) {
    const Locked locked;
    const auto where = reinterpret_cast<uint64_t>(to);
    const auto range = locked.machine.pinned.upper_bound(where);
    pinned = range != locked.machine.pinned.begin() && where < std::prev(range)->first + std::prev(range)->second;
  }
  return error != cudaSuccess || pinned ? error : wait_for_stream(stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return synchronous_copy(to, from, bytes);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
cudaError_t cudaGetSymbolAddress(void**, const void*) { return fail(cudaErrorInvalidSymbol); }
cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  const cudaError_t error = set(address, value, bytes, nullptr);
  return error == cudaSuccess ? wait_for_stream(nullptr) : error;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream) {
  return set(address, value, bytes, stream);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *function = driver_function(name);
  if (status != nullptr) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
