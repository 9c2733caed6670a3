// The few functions of the driver that torch asks for: contexts, and memory of expandable segments.
// The library calls itself libcuda.so.1, so whoever loads that finds these.
#include <cuda.h>
#include <dlfcn.h>

#include "gpu.h"

using namespace made_gpu;

extern "C" {

CUresult cuDeviceGet(CUdevice* found, int number) {
  *found = number;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice number, unsigned int* flags, int* active) {
  const Locked locked;
  *flags = 0;
  *active = locked.machine.device[number].context;
  return CUDA_SUCCESS;
}
// A context is its device's number and one.
CUresult cuCtxGetCurrent(CUcontext* context) {
  const Locked locked;
  const bool there = locked.machine.device[current_device].context;
  *context = there ? reinterpret_cast<CUcontext>(static_cast<uintptr_t>(current_device) + 1) : nullptr;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice number) {
  const Locked locked;
  locked.machine.use(number);
  *context = reinterpret_cast<CUcontext>(static_cast<uintptr_t>(number) + 1);
  return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  if (context != nullptr) current_device = static_cast<int>(reinterpret_cast<uintptr_t>(context) - 1);
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
  *text = "an error of the made-up driver";
  return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  const Locked locked;
  *address = locked.machine.use(current_device).reservations.take(bytes);
  return *address == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t) {
  const Locked locked;
  const int number = locked.machine.device_of(reinterpret_cast<void*>(address));
  if (number < 0) return CUDA_ERROR_INVALID_VALUE;
  return locked.machine.device[number].reservations.give_back(address) == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *bytes = size_t{2} << 20;
  return CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* wanted,
                     unsigned long long) {
  const Locked locked;
  if ((wanted->requestedHandleTypes & CU_MEM_HANDLE_TYPE_FABRIC) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  if (!locked.machine.take(wanted->location.id, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = locked.machine.next_handle++;
  locked.machine.handles[*handle] = {wanted->location.id, bytes};
  return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  const Locked locked;
  const auto found = locked.machine.handles.find(handle);
  if (found == locked.machine.handles.end()) return CUDA_ERROR_INVALID_VALUE;
  locked.machine.device[found->second.first].used -= found->second.second;
  locked.machine.handles.erase(found);
  return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) {
  return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr, size_t) { return CUDA_SUCCESS; }
CUresult cuMemSetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

// What torch's run-time compiler would call: it is only looked for.
#define MADE_GPU_UNSUPPORTED(name)  \
  int made_gpu_##name() asm(#name); \
  int made_gpu_##name() { return CUDA_ERROR_NOT_SUPPORTED; }
MADE_GPU_UNSUPPORTED(cuFuncGetAttribute)
MADE_GPU_UNSUPPORTED(cuFuncSetAttribute)
MADE_GPU_UNSUPPORTED(cuFuncSetCacheConfig)
MADE_GPU_UNSUPPORTED(cuInit)
MADE_GPU_UNSUPPORTED(cuLaunchCooperativeKernel)
MADE_GPU_UNSUPPORTED(cuLaunchKernel)
MADE_GPU_UNSUPPORTED(cuLinkAddData_v2)
MADE_GPU_UNSUPPORTED(cuLinkComplete)
MADE_GPU_UNSUPPORTED(cuLinkCreate_v2)
MADE_GPU_UNSUPPORTED(cuModuleGetFunction)
MADE_GPU_UNSUPPORTED(cuModuleLoad)
MADE_GPU_UNSUPPORTED(cuModuleLoadData)
MADE_GPU_UNSUPPORTED(cuModuleLoadDataEx)
MADE_GPU_UNSUPPORTED(cuModuleUnload)
MADE_GPU_UNSUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
MADE_GPU_UNSUPPORTED(cuPointerGetAttribute)
MADE_GPU_UNSUPPORTED(cuTensorMapEncodeTiled)
MADE_GPU_UNSUPPORTED(made_gpu_anything_else)

}  // extern "C"

namespace made_gpu {

void* driver_function(const char* name) {
  void* known = dlsym(RTLD_DEFAULT, name);
  return known != nullptr ? known : reinterpret_cast<void*>(&made_gpu_made_gpu_anything_else);
}

}  // namespace made_gpu
