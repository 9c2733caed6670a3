// The one helper thread: prepares chunks, resolves GPU spans, writes anchors and samples, and finishes recordings.
//
// It takes neither the GIL nor torch's allocator lock, blocks all signals, never synchronises a stream, sleeps ~10 ms
// between rounds, and sleeps without end while nothing is recorded. It is detached and owns nothing that a destructor
// would tear down.
#pragma once

#include <cstdint>

namespace wanhook {

class Recording;

namespace resolver {

// Starts the thread if there is none yet. False when the system gives no thread.
bool ensure_running() noexcept;

// Waits until `recording` is finished, at most `timeout_ns`. True when it is.
bool wait_finished(Recording* recording, int64_t timeout_ns) noexcept;

// Waits until all recordings are finished, at most `timeout_ns`; then gives the rest up: their files are closed with
// the spans that are known. For interpreter exit.
void finish_all(int64_t timeout_ns) noexcept;

}  // namespace resolver
}  // namespace wanhook
