// The watermark: Python is told of each stage that begins or ends with that share of the device's memory in use.
#pragma once

#include <Python.h>

namespace wanhook {

inline constexpr float kNoWatermark = 2;  // no share is that large

// `reached`: called with (share in use, path), under the GIL and with no lock held. A new reference is kept.
void set_watermark(float share, PyObject* reached);

// Read at each edge of a stage, so one load.
[[gnu::hot]] float watermark() noexcept;
// Takes the reference to `path`; null only clears the error that made it so. An exception of `reached` is told as
// unraisable: it must not become the host program's.
void tell_watermark_reached(float used, PyObject* path);

}  // namespace wanhook
