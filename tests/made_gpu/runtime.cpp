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

using EventHandle = std::shared_ptr<Event>;

EventHandle& event_of(cudaEvent_t event) { return *reinterpret_cast<EventHandle*>(event); }

// torch.cuda._sleep() and its like: their length is their argument, in cycles of 1.98 GHz.
std::set<const void*>& spin_kernels() {
  static auto* kernels = new std::set<const void*>();
  return *kernels;
}

int64_t length_of(const void* kernel, void** arguments) {
  if (spin_kernels().count(kernel) == 0) return kernel_nanoseconds();
  return static_cast<int64_t>(static_cast<double>(*static_cast<int64_t*>(arguments[0])) / 1.98);
}

cudaError_t launch(const void* kernel, void** arguments, cudaStream_t stream) {
  const Locked locked;
  locked.machine.kernel(stream, length_of(kernel, arguments));
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t handle) {
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

cudaError_t wait_for_stream(cudaStream_t handle) {
  Stream* stream = nullptr;
  uint64_t target = 0;
  {
    const Locked locked;
    stream = locked.machine.stream_of(handle);
    if (stream->capture != nullptr) {
      stream->capture->invalidated = true;
      return fail(cudaErrorStreamCaptureUnsupported);
    }
    target = stream->issued;
  }
  wait_until([=](Machine&) { return stream->done >= target && (stream->done > target || stream->time <= now()); });
  return cudaSuccess;
}

cudaError_t synchronous_copy(void* to, const void* from, size_t bytes) {
  const cudaError_t error = copy(to, from, bytes, nullptr);
  return error == cudaSuccess ? wait_for_stream(nullptr) : error;
}

cudaError_t set(void* address, int value, size_t bytes, cudaStream_t handle) {
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

cudaError_t record(cudaEvent_t handle, cudaStream_t where) {
  const Locked locked;
  Stream* stream = locked.machine.stream_of(where);
  const EventHandle event = event_of(handle);
  if (event->device != stream->device) return fail(cudaErrorInvalidResourceHandle);
  event->capture = stream->capture;
  if (stream->capture != nullptr) return cudaSuccess;
  const uint64_t number = ++event->issued;
  locked.machine.issue(stream, [=](int64_t* time) {
    if (number < event->done) return true;  // recorded again since, on a stream that is ahead
    event->done = number;
    event->time = *time;
    return true;
  });
  return cudaSuccess;
}

// Whether the last record of it was reached, and its time has come.
bool is_over(const Event& event) { return event.done >= event.issued && event.time <= now(); }

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
  properties->totalGlobalMem = kDeviceBytes;
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
  *total = kDeviceBytes;
  *free = kDeviceBytes - locked.machine.use(current_device).used;
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

// Streams -------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int, int priority) {
  const Locked locked;
  auto* fresh = new Stream();
  fresh->device = current_device;
  fresh->priority = priority;
  locked.machine.use(current_device).streams.insert(fresh);
  *stream = reinterpret_cast<cudaStream_t>(fresh);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
// Its memory is kept: whoever uses it afterwards is told so.
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return wait_for_stream(stream); }
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  const Locked locked;
  *priority = locked.machine.stream_of(stream)->priority;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const Locked locked(/*ask=*/true);
  if (forbidden_by_capture(locked.machine)) return fail(cudaErrorStreamCaptureUnsupported);
  const Stream* stream = locked.machine.stream_of(handle);
  return stream->items.empty() && stream->time <= now() ? cudaSuccess : fail(cudaErrorNotReady);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for_stream(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t waited, unsigned int) {
  const Locked locked;
  Stream* stream = locked.machine.stream_of(handle);
  const EventHandle event = event_of(waited);
  if (event->capture != nullptr) {
    stream->capture = event->capture;
    return cudaSuccess;
  }
  if (stream->capture != nullptr || event->issued == 0) return cudaSuccess;
  const uint64_t number = event->issued;
  locked.machine.issue(stream, [=](int64_t* time) {
    if (event->done < number) return false;
    *time = std::max(*time, event->time);
    return true;
  });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  const cudaError_t error = wait_for_stream(handle);
  function(data);
  return error;
}
cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t function, void* data, unsigned int) {
  const cudaError_t error = wait_for_stream(handle);
  function(handle, error, data);
  return error;
}

// Events --------------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  const Locked locked;
  locked.machine.use(current_device);
  auto fresh = std::make_shared<Event>();
  fresh->device = current_device;
  fresh->timing = (flags & cudaEventDisableTiming) == 0;
  *event = reinterpret_cast<cudaEvent_t>(new EventHandle(std::move(fresh)));
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Locked locked;
  delete &event_of(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return record(event, stream); }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int) {
  return record(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Locked locked(/*ask=*/true);
  if (event_of(event)->capture != nullptr) {
    event_of(event)->capture->invalidated = true;
    return fail(cudaErrorCapturedEvent);
  }
  if (forbidden_by_capture(locked.machine)) return fail(cudaErrorStreamCaptureUnsupported);
  return is_over(*event_of(event)) ? cudaSuccess : fail(cudaErrorNotReady);
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  EventHandle event;
  {
    const Locked locked;
    event = event_of(handle);
    if (forbidden_by_capture(locked.machine)) return fail(cudaErrorStreamCaptureUnsupported);
  }
  wait_until([&](Machine&) { return is_over(*event); });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const Locked locked(/*ask=*/true);
  const Event& begin = *event_of(from);
  const Event& end = *event_of(to);
  if (!begin.timing || !end.timing || begin.issued == 0 || end.issued == 0 || begin.device != end.device) {
    return fail(cudaErrorInvalidResourceHandle);
  }
  if (!is_over(begin) || !is_over(end)) return fail(cudaErrorNotReady);
  *milliseconds = static_cast<float>(static_cast<double>(end.time - begin.time) / 1e6);
  return cudaSuccess;
}

// Graphs --------------------------------------------------------------------------------------------------------------

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const Locked locked;
  Machine& machine = locked.machine;
  Stream* stream = machine.stream_of(handle);
  if (stream->capture != nullptr || handle == nullptr) return fail(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_shared<Capture>();
  stream->capture->id = machine.next_capture++;
  stream->capture->mode = mode;
  stream->capture->thread = this_thread();
  machine.captures.insert(stream->capture);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const Locked locked;
  Machine& machine = locked.machine;
  const std::shared_ptr<Capture> capture = machine.stream_of(handle)->capture;
  *graph = nullptr;
  if (capture == nullptr) return fail(cudaErrorIllegalState);
  for (int number = 0; number < machine.devices; ++number) {
    for (Stream* stream : machine.device[number].streams) {
      if (stream->capture == capture) stream->capture = nullptr;
    }
  }
  machine.captures.erase(capture);
  if (capture->invalidated) return fail(cudaErrorStreamCaptureInvalidated);
  *graph = reinterpret_cast<cudaGraph_t>(new std::shared_ptr<Capture>(capture));
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  const Locked locked;
  *status = cudaStreamCaptureStatusNone;
  const Stream* stream = locked.machine.stream_of(handle);
  if (stream == locked.machine.device[current_device].legacy.get()) {
    for (const std::shared_ptr<Capture>& capture : locked.machine.captures) {
      if (capture->mode != cudaStreamCaptureModeRelaxed) return fail(cudaErrorStreamCaptureImplicit);
    }
  }
  if (stream->capture != nullptr) {
    *status = stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
  }
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  const Locked locked;
  const Stream* stream = locked.machine.stream_of(handle);
  *status = stream->capture != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (id != nullptr) *id = stream->capture != nullptr ? stream->capture->id : 0;
  if (graph != nullptr) *graph = nullptr;
  if (nodes != nullptr) *nodes = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(
      new std::shared_ptr<Capture>(*reinterpret_cast<std::shared_ptr<Capture>*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Locked locked;
  locked.machine.kernel(stream, (*reinterpret_cast<std::shared_ptr<Capture>*>(executable))->length);
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  // torch warns of an empty graph: tell of one node where something was captured.
  *count = (*reinterpret_cast<std::shared_ptr<Capture>*>(graph))->length > 0;
  return cudaSuccess;
}
cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t* count) {
  *count = 0;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<std::shared_ptr<Capture>*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<std::shared_ptr<Capture>*>(executable);
  return cudaSuccess;
}

// Kernels -------------------------------------------------------------------------------------------------------------

namespace {
struct Call {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Call> calls;
}  // namespace

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  if (std::strstr(name, "spin_kernel") != nullptr) spin_kernels().insert(function);
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  calls.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (calls.empty()) return fail(cudaErrorMissingConfiguration);
  *grid = calls.back().grid;
  *block = calls.back().block;
  *shared = calls.back().shared;
  *static_cast<cudaStream_t*>(stream) = calls.back().stream;
  calls.pop_back();
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void** arguments, size_t, cudaStream_t stream) {
  return launch(kernel, arguments, stream);
}
cudaError_t cudaLaunchKernel(const void* function, dim3, dim3, void** arguments, size_t, cudaStream_t stream) {
  return launch(function, arguments, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  return launch(function, arguments, config->stream);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  std::memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t,
                                                                   unsigned int) {
  *blocks = 2;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *function = driver_function(name);
  if (status != nullptr) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
