// wanhook.role(name, unit): tags the collectives that this thread calls inside the `with` statement.
#pragma once

#include <Python.h>

namespace wanhook {

// Adds `role` and the type `Role` to the module. False with a Python error set.
bool add_role_type(PyObject* module);

}  // namespace wanhook
