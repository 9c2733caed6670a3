#include "python/coalesced_launch.h"

#include <pybind11/pybind11.h>

#include <optional>

#include "hooks/coalesced_group.h"
#include "python/without_gil.h"

namespace wanhook {
namespace {

// Null for a synchronous group.
c10d::Work* as_work(pybind11::handle result) {
  return pybind11::isinstance<c10d::Work>(result) ? result.cast<c10d::Work*>() : nullptr;
}

// Written against the CPython API: pybind11 keeps a call's arguments in objects that let go of them in destructors.
PyObject* launch_coalesced(PyObject*, PyObject* arguments, PyObject* keywords) {
  if (PyTuple_GET_SIZE(arguments) < 1) {
    PyErr_SetString(PyExc_TypeError, "launch_coalesced() takes what launches the group, and its arguments");
    return nullptr;
  }
  PyObject* passed_on = PyTuple_GetSlice(arguments, 1, PyTuple_GET_SIZE(arguments));
  if (passed_on == nullptr) return nullptr;
  std::optional<CoalescedLaunch> launch;
  {
    const WithoutGil unlocked;
    launch.emplace();
  }
  PyObject* result = PyObject_Call(PyTuple_GET_ITEM(arguments, 0), passed_on, keywords);
  Py_DECREF(passed_on);
  if (result == nullptr) return nullptr;
  c10d::Work* work = as_work(result);
  const WithoutGil unlocked;
  launch->returned(work);
  launch.reset();
  return result;
}

PyMethodDef module_functions[] = {
    {"launch_coalesced", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(launch_coalesced)),
     METH_VARARGS | METH_KEYWORDS,
     "launch_coalesced(end, *arguments, **keywords)\n\nCalls `end`, which launches a coalesced group, and times it."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool add_coalesced_launch(PyObject* module) { return PyModule_AddFunctions(module, module_functions) == 0; }

}  // namespace wanhook
