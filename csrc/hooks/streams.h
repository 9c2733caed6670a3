// Which stream torch works on, and whether it is being captured into a graph.
#pragma once

#include "device/span_timer.h"

namespace wanhook {

// torch's current stream of the calling thread on `device`, -1 for the current one. Device -1 in the result when this
// process has no context there. Needs CUDA to be initialised; makes no context; never throws.
[[gnu::hot]] StreamRef stream_on_device(int device) noexcept;

// Lets scopes find the current stream of the current device. Call when CUDA is initialised.
void provide_current_stream() noexcept;

}  // namespace wanhook
