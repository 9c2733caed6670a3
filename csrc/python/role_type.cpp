#include "python/role_type.h"

#include "core/thread_state.h"
#include "python/names.h"

// PyVarObject_HEAD_INIT begins every static type, here as everywhere, and leaves the other members zero.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace wanhook {
namespace {

struct Role {
  PyObject_HEAD
  uint16_t id;
  uint16_t unit;
  uint16_t outer_id;  // the tags to go back to
  uint16_t outer_unit;
};

[[gnu::hot]] PyObject* role_enter(PyObject* self, PyObject*) {
  auto* role = reinterpret_cast<Role*>(self);
  role->outer_id = thread_state.role;
  role->outer_unit = thread_state.unit;
  thread_state.role = role->id;
  thread_state.unit = role->unit;
  Py_RETURN_NONE;
}

[[gnu::hot]] PyObject* role_exit(PyObject* self, PyObject* const*, Py_ssize_t) {
  const auto* role = reinterpret_cast<Role*>(self);
  thread_state.role = role->outer_id;
  thread_state.unit = role->outer_unit;
  Py_RETURN_FALSE;
}

void role_dealloc(PyObject* self) { PyObject_Free(self); }

PyMethodDef role_methods[] = {{"__enter__", role_enter, METH_NOARGS, "Tags this thread's collectives."},
                              {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(role_exit)),
                               METH_FASTCALL, "Restores the tag that was there before."},
                              {nullptr, nullptr, 0, nullptr}};

PyTypeObject make_role_type() {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "wanhook.Role";
  type.tp_doc = "Tags the collectives of this thread. Made by wanhook.role(), one for each `with`.";
  type.tp_basicsize = sizeof(Role);
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
  type.tp_dealloc = role_dealloc;
  type.tp_methods = role_methods;
  return type;
}
PyTypeObject role_type = make_role_type();

[[gnu::hot]] PyObject* make_role(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count < 1 || count > 2 || !PyUnicode_Check(arguments[0]) || !PyUnicode_Check(arguments[count - 1])) {
    PyErr_SetString(PyExc_TypeError, "role() takes the name of the role and, if need be, that of a unit, both str");
    return nullptr;
  }
  auto* role = PyObject_New(Role, &role_type);
  if (role == nullptr) return nullptr;
  role->id = static_cast<uint16_t>(name_id(arguments[0]));
  const bool named = count == 2 && PyUnicode_GET_LENGTH(arguments[1]) > 0;
  role->unit = named ? static_cast<uint16_t>(name_id(arguments[1])) : 0;
  role->outer_id = role->outer_unit = 0;
  return reinterpret_cast<PyObject*>(role);
}

PyMethodDef module_functions[] = {
    {"role", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(make_role)), METH_FASTCALL,
     "role(name, unit='', /)\n\nTags the collectives that this thread calls inside the `with`: what they are for "
     "(`qkv`), and for which part of the program (`blocks.3`). Keep `unit` to a few hundred names."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool add_role_type(PyObject* module) {
  if (PyType_Ready(&role_type) < 0) return false;
  Py_INCREF(&role_type);
  return PyModule_AddObject(module, "Role", reinterpret_cast<PyObject*>(&role_type)) == 0 &&
         PyModule_AddFunctions(module, module_functions) == 0;
}

}  // namespace wanhook
