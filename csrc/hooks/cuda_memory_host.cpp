// CPU builds: no caching allocator to trace.
#include <stdexcept>

#include "hooks/memory_hook.h"

namespace wanhook {

void attach_cuda_memory() { throw std::runtime_error("this build of wanhook has no CUDA parts"); }
bool cuda_memory_attached() noexcept { return false; }
std::string cuda_allocator_settings() { return ""; }

}  // namespace wanhook
