// Stands in for libcudart and the driver: exported from the program, so that torch's own libraries call it.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <string>

#include "fake_device.h"

namespace wanhook::test {

FakeDevice& FakeDevice::get() {
  static FakeDevice device;
  return device;
}

namespace {

FakeDevice& device() { return FakeDevice::get(); }

cudaError_t fail(cudaError_t error) {
  device().last_error = error;
  return error;
}

FakeDevice::Event* event_of(cudaEvent_t event) { return reinterpret_cast<FakeDevice::Event*>(event); }

CUresult get_device(CUdevice* found, int number) {
  *found = number;
  return CUDA_SUCCESS;
}

CUresult get_attribute(int* value, CUdevice_attribute, CUdevice) {
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  *address = device().reservations.take(bytes);
  return *address == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult free_address(CUdeviceptr address, size_t) {
  return device().reservations.give_back(address) == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* wanted,
                unsigned long long) {
  if (wanted->requestedHandleTypes & CU_MEM_HANDLE_TYPE_FABRIC) return CUDA_ERROR_NOT_SUPPORTED;
  if (!device().take(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = device().next_handle++;
  device().handles[*handle] = bytes;
  return CUDA_SUCCESS;
}

CUresult release(CUmemGenericAllocationHandle handle) {
  const auto found = device().handles.find(handle);
  if (found == device().handles.end()) return CUDA_ERROR_INVALID_VALUE;
  device().used -= found->second;
  device().handles.erase(found);
  return CUDA_SUCCESS;
}

CUresult map(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) { return CUDA_SUCCESS; }
CUresult unmap(CUdeviceptr, size_t) { return CUDA_SUCCESS; }
CUresult set_access(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

CUresult describe(CUresult, const char** text) {
  *text = "an error of the fake driver";
  return CUDA_SUCCESS;
}

CUresult unsupported() { return CUDA_ERROR_NOT_SUPPORTED; }

void* driver_function(const std::string& name) {
  static const std::unordered_map<std::string, void*> functions = {
      {"cuDeviceGet", reinterpret_cast<void*>(&get_device)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(&get_attribute)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(&reserve)},
      {"cuMemAddressFree", reinterpret_cast<void*>(&free_address)},
      {"cuMemCreate", reinterpret_cast<void*>(&create)},
      {"cuMemRelease", reinterpret_cast<void*>(&release)},
      {"cuMemMap", reinterpret_cast<void*>(&map)},
      {"cuMemUnmap", reinterpret_cast<void*>(&unmap)},
      {"cuMemSetAccess", reinterpret_cast<void*>(&set_access)},
      {"cuGetErrorString", reinterpret_cast<void*>(&describe)},
  };
  const auto found = functions.find(name);
  return found != functions.end() ? found->second : reinterpret_cast<void*>(&unsupported);
}

}  // namespace
}  // namespace wanhook::test

using wanhook::test::FakeDevice;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "Fake GPU");
  properties->totalGlobalMem = FakeDevice::get().total;
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = FakeDevice::get().total;
  *free = *total - FakeDevice::get().used;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t bytes) {
  FakeDevice& device = FakeDevice::get();
  if (!device.take(bytes)) return wanhook::test::fail(cudaErrorMemoryAllocation);
  *address = reinterpret_cast<void*>(device.allocations.take(bytes));
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  FakeDevice& device = FakeDevice::get();
  const uint64_t bytes = device.allocations.give_back(reinterpret_cast<uint64_t>(address));
  if (bytes == 0 && address != nullptr) return wanhook::test::fail(cudaErrorInvalidValue);
  device.used -= bytes;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const int error = FakeDevice::get().last_error;
  FakeDevice::get().last_error = cudaSuccess;
  return static_cast<cudaError_t>(error);
}

const char* cudaGetErrorName(cudaError_t) { return "an error of the fake runtime"; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the fake runtime"; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = reinterpret_cast<cudaEvent_t>(new FakeDevice::Event());
  ++FakeDevice::get().events_alive;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete wanhook::test::event_of(event);
  --FakeDevice::get().events_alive;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *wanhook::test::event_of(event) = {stream, ++FakeDevice::get().streams[stream].issued};
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return FakeDevice::get().is_done(*wanhook::test::event_of(event)) ? cudaSuccess
                                                                    : wanhook::test::fail(cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  FakeDevice::get().finish(*wanhook::test::event_of(event));
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  FakeDevice::Stream& found = FakeDevice::get().streams[stream];
  found.done = found.issued;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  FakeDevice::get().finish_all();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *function = wanhook::test::driver_function(name);
  if (status != nullptr) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
