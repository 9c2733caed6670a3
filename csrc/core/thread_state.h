// What wanhook keeps for each thread: its chunk, and what it is doing right now.
#pragma once

#include <cstdint>

#include "core/chunk_writer.h"

namespace wanhook {

class Recording;

// One cache line: a hook in a real program finds it cold.
struct alignas(64) ThreadState {
  Recording* recording;  // the one that `writer` writes into
  ChunkWriter writer;
  uint32_t thread;       // index of this thread, 0 until its first record
  bool ended;            // the thread's destructors have run: nothing more is recorded from it

  uint32_t scope;        // innermost open scope, 0 for none
  uint16_t role;         // string id that tags collectives, 0 for none
  uint16_t unit;         // string id of what they are made for, 0 for none
  uint32_t coalesced;    // number of the coalesced group being built, 0 for none

  // What a record of this thread says about its scope: one that was opened in an earlier recording is none of this one.
  uint32_t scope_in(const Recording* current) const noexcept { return recording == current ? scope : 0; }
};

// __thread, not thread_local: the type is trivial, and the compiler then needs no initialisation guard on each access.
extern __thread ThreadState thread_state;

// The same, by an address that the compiler keeps: in a library that is loaded later each mention of the variable by
// its name is a call into the loader, and again after each call of anything else.
inline ThreadState& this_thread() noexcept {
  ThreadState* state = &thread_state;
  __asm__("" : "+r"(state));
  return *state;
}

}  // namespace wanhook
