// call_natively(function, kind): Python functions around others' functions, whose eager calls run here.
//
// An integration's wrapper is a Python function, because torch.compile can look into one and goes on to what it wraps,
// and because Python binds it as a method. Each call of it costs a frame, a dict of its keywords and the methods of a
// context manager, which come to more than what they are for. So the function gets a vectorcall of ours: it begins the
// scope (or tags the thread), calls what is wrapped with the caller's own arguments, and ends it. The function's own
// code stays what it means, and is what runs
//   - while no recording runs: it may have to start one, which is the business of `with`;
//   - where torch traces: dynamo goes by the code, and looks at each frame while it has something to compile; other
//     tracers set the flag that such code asks for;
//   - in calls by Python 3.11's own bytecode, which does not look at a function's vectorcall.
//
// Data is read from the function's closure, which costs nothing to find and lives as long as the function does.
#pragma once

#include <Python.h>

namespace wanhook {

// Adds `call_natively` to the module. False with a Python error set.
bool add_native_calls(PyObject* module);

}  // namespace wanhook
