// How a collective's record is closed.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "core/clock.h"
#include "core/recorder.h"

namespace wanhook {

// `unit`: thread_state.unit on the thread that called, else 0.
inline void write_collective_end(Recording* recording, uint32_t id, CollectivePhase phase, uint8_t flags = 0,
                                 uint16_t unit = 0) noexcept {
  recording->append_made<CollectiveEndRecord>(this_thread(), [&](CollectiveEndRecord& record) noexcept {
    record.kind = static_cast<uint8_t>(Kind::kCollectiveEnd);
    record.phase = static_cast<uint8_t>(phase);
    record.flags = flags;
    record.id = id;
    record.tick = tick_now();
    record.unit = unit;
  });
}

// Stamps the end of a host collective. The callback runs on gloo's thread, without the GIL; it only writes a record.
// False when this backend's Work has no future: then the completion stays unknown.
inline bool stamp_completion(c10d::Work& work, Recording* recording, uint32_t id) noexcept {
  try {
    const auto future = work.getFuture();
    if (!future) return false;
    future->addCallback(
        [recording, id](c10::ivalue::Future& done) noexcept {
          write_collective_end(recording, id, done.hasError() ? CollectivePhase::kFailed : CollectivePhase::kCompleted);
        },
        /*uses_future=*/false);
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace wanhook
