// call_natively(function, kind): Python functions around others' functions, whose eager calls run here.
//
// An integration's wrapper is a Python function, because torch.compile can look into one and goes on to what it wraps,
// and because Python binds it as a method. Each call of it costs a frame, a dict of its keywords and the methods of a
// context manager, which come to more than what they are for. So the function gets a vectorcall of ours: it begins the
// scope (or tags the thread), calls what is wrapped with the caller's own arguments, and ends it. The function's own
// code stays what it means, and is what runs
//   - of a scope while no recording runs: it may have to start one, which is the business of `with`;
//   - where dynamo looks at each frame for something to compile, and, of code that asks whether torch compiles, where
//     another tracer says so;
//   - in direct calls by Python 3.11's own bytecode, which does not look at a function's vectorcall.
//
// Not for functions of the program's own: Python 3.12 and later run a Python function's calls of Python functions on
// one C frame, but for those with a vectorcall of somebody's, so a recursion through it would end earlier than without
// us.
//
// Data is read from the function's closure, which costs nothing to find and lives as long as the function does.
#pragma once

#include <Python.h>

namespace wanhook {

// Adds `call_natively` to the module. False with a Python error set.
bool add_native_calls(PyObject* module);

}  // namespace wanhook
