// Streams, events, graphs and launches of the CUDA runtime, as far as torch calls them.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <thread>

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

cudaError_t launch(const void* kernel, void** arguments, cudaStream_t handle) {
  wait_for_room(handle);
  const Locked locked;
  Stream* stream = locked.machine.stream_of(handle);
  if (spin_kernels().count(kernel) == 0) {
    locked.machine.kernel(handle, kernel_nanoseconds());
    return cudaSuccess;
  }
  const auto length = static_cast<int64_t>(static_cast<double>(*static_cast<int64_t*>(arguments[0])) / 1.98);
  if (stream->capture != nullptr) {
    stream->capture->length += length;
    return cudaSuccess;
  }
  // Is in the queue until its time is over, so that it can be full.
  locked.machine.issue(stream, [length](int64_t* time) {
    if (*time + length > now()) return false;
    *time += length;
    return true;
  });
  return cudaSuccess;
}

cudaError_t record(cudaEvent_t handle, cudaStream_t where) {
  wait_for_room(where);
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
// On a thread of its own, when the stream gets there; the stream waits until it returns.
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  wait_for_room(handle);
  const Locked locked;
  Stream* stream = locked.machine.stream_of(handle);
  if (stream->capture != nullptr) return cudaSuccess;
  enum State { kNotBegun, kRuns, kReturned };
  const auto state = std::make_shared<std::atomic<State>>(kNotBegun);
  locked.machine.issue(stream, [=](int64_t* time) {
    if (*state == kNotBegun && *time <= now()) {
      *state = kRuns;
      std::thread([=] {
        function(data);
        *state = kReturned;
      }).detach();
    }
    if (*state != kReturned) return false;
    *time = std::max(*time, now());
    return true;
  });
  return cudaSuccess;
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

}  // extern "C"
