// Which stream torch works on, and whether it is being captured into a graph.
#pragma once

#include "device/span_timer.h"

namespace wanhook {

// torch's current stream on `device` of the calling thread; device -1 in the result when CUDA is not in use. CUDA must
// be initialised for that device. Never throws.
StreamRef stream_on_device(int device) noexcept;

// Lets scopes find the current stream of the current device. Call when CUDA is initialised.
void provide_current_stream() noexcept;

}  // namespace wanhook
