// The Python objects behind wanhook.trace(), wanhook.role() and wanhook.mark(), written against the CPython API: a
// pybind11 class would cost five times as much for each `with`.
#pragma once

#include <Python.h>

namespace wanhook {

// Adds `trace`, `mark`, `role`, `set_outermost_hooks` and the types `Trace`, `Scope`, `Role` to the module. False with
// a Python error set.
bool add_scope_types(PyObject* module);

bool is_trace(PyObject* object);

// The same scopes without a `with`, for what runs while a recording does: none is started or ended here.
//
// Whether a scope of this Trace would be recorded, or told to a watcher.
bool records_now(PyObject* trace);
// Begins one; any number of them can be open at a time. A new reference, null with an error set.
PyObject* enter_scope(PyObject* trace);
// Ends it and takes the reference. `exception` is its type, or None; none may be raised at this moment.
void leave_scope(PyObject* scope, PyObject* exception);

}  // namespace wanhook
