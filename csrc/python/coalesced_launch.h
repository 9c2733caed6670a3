// launch_coalesced(end, *arguments, **keywords): calls `end`, which ends and launches a coalesced group
// (ProcessGroup._end_coalescing), with the group's record and timer around it.
#pragma once

#include <Python.h>

namespace wanhook {

// Adds `launch_coalesced` to the module. False with a Python error set.
bool add_coalesced_launch(PyObject* module);

}  // namespace wanhook
