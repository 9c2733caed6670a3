// Writing an allocator's state, whichever allocator it is.
#pragma once

#include <unistd.h>

#include "core/recorder.h"

namespace wanhook {

// A large state can need more chunks than lie ready. Where it is taken by a call of the user (start, stop, resume), it
// waits for the resolver to prepare some; a resync happens inside hooks and never waits.
template <class Record>
bool append_state(Recording* recording, const Record& record, StateReason reason) noexcept {
  for (int attempt = 0; !recording->append_state(record); ++attempt) {
    if (reason == StateReason::kResync || attempt == 500) return false;
    Recorder::get().wake_resolver();
    usleep(200);
  }
  return true;
}

}  // namespace wanhook
