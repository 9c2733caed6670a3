// begin_wait() and end_wait(): scopes of type `wait`, for integrations that know where one stream is made to wait for
// another.
//
// A thread has at most one open. It is a leaf: what is called while it is open, collectives and allocations, belongs to
// the scope around it, so it touches neither the context variable nor the thread's innermost scope. It never starts a
// recording.
#pragma once

#include <Python.h>

#include <cstdint>

namespace wanhook {

bool add_wait_functions(PyObject* module);
// Whether the calling thread has one open.
bool wait_is_open() noexcept;
// Whether begin_wait() would open one now.
bool wait_would_open() noexcept;
// False when none was opened, because one is open or none is recorded. Lets go of the GIL meanwhile, as end_wait()
// does.
bool begin_wait(uint32_t name);
// Closes this thread's, if it has one.
void end_wait();

}  // namespace wanhook
