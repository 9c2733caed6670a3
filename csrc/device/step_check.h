// The perturbation check: of the steps of a program, every other one is muted, so that what recording costs can be read
// off the same run. A muted step is timed as a recorded one is, by its own scope, and the gate is closed inside it.
//
// Everything that records is off in a muted step: allocator events too, although the state must be taken anew behind
// it, because a check that left them on would not see what they cost. The state is written behind every step of the
// check, outside of what is timed, so that both sorts begin alike. What goes on in both: the two event records and two
// records of the step itself, and a helper thread that sleeps.
#pragma once

#include <cstdint>

#include "core/recording.h"

namespace wanhook::step_check {

// Which sort the step of that number is, from 0: recorded, muted, muted, recorded in each four steps, or the opposite.
// A steady drift cancels out in each four; which of the two it is looks random, so that no habit of the program can
// keep step with it. The same in every process: ranks change together without a word.
ScopeVerify sort_of(uint32_t number) noexcept;

// A step begins, the gate being open: mutes it if it is its turn. kNone inside another step of the check.
ScopeVerify begin(Recording* recording) noexcept;
// A step that was begun, kNone excepted, has ended: opens the gate again, and writes the allocator's state.
void end(Recording* recording, ScopeVerify sort) noexcept;

}  // namespace wanhook::step_check
