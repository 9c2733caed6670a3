// As much of the CUDA runtime as csrc/device's timers call, on events whose times and states a test sets by hand.
#pragma once

#include <cmath>
#include <cstddef>

struct CUevent_st {
  double at_ms = NAN;  // NAN: never recorded
  bool done = true;    // the stream has passed it
};
struct CUstream_st {};
using cudaEvent_t = CUevent_st*;
using cudaStream_t = CUstream_st*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
constexpr unsigned cudaStreamNonBlocking = 1;

struct FakeCuda {
  double now_ms = 0;
  cudaError_t broken = cudaSuccess;  // what every question answers once it is set
};
inline FakeCuda fake_cuda;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "a made-up error"; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetPCIBusId(char*, int, int) { return cudaErrorNotSupported; }
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = new CUstream_st();
  return cudaSuccess;
}
// What measures the cost of an event pair is refused its memory, and gives up.
#define CUDART_CB
inline cudaError_t cudaMalloc(void**, size_t) { return cudaErrorNotSupported; }
inline cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaErrorNotSupported; }
inline cudaError_t cudaLaunchHostFunc(cudaStream_t, void (*)(void*), void*) { return cudaErrorNotSupported; }
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st();
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->at_ms = fake_cuda.now_ms;
  event->done = true;
  return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (fake_cuda.broken != cudaSuccess) return fake_cuda.broken;
  return event->done ? cudaSuccess : cudaErrorNotReady;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  if (fake_cuda.broken != cudaSuccess) return fake_cuda.broken;
  if (std::isnan(from->at_ms) || std::isnan(to->at_ms)) return cudaErrorInvalidResourceHandle;
  if (!from->done || !to->done) return cudaErrorNotReady;
  *milliseconds = static_cast<float>(to->at_ms - from->at_ms);
  return cudaSuccess;
}
