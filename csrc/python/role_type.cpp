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
  uint16_t outer;  // the tag to go back to
};

[[gnu::hot]] PyObject* role_enter(PyObject* self, PyObject*) {
  auto* role = reinterpret_cast<Role*>(self);
  role->outer = thread_state.role;
  thread_state.role = role->id;
  Py_RETURN_NONE;
}

[[gnu::hot]] PyObject* role_exit(PyObject* self, PyObject* const*, Py_ssize_t) {
  thread_state.role = reinterpret_cast<Role*>(self)->outer;
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

[[gnu::hot]] PyObject* make_role(PyObject*, PyObject* name) {
  if (!PyUnicode_Check(name)) {
    PyErr_SetString(PyExc_TypeError, "role() takes the name of the role, a str");
    return nullptr;
  }
  auto* role = PyObject_New(Role, &role_type);
  if (role == nullptr) return nullptr;
  role->id = static_cast<uint16_t>(name_id(name));
  role->outer = 0;
  return reinterpret_cast<PyObject*>(role);
}

PyMethodDef module_functions[] = {
    {"role", make_role, METH_O, "role(name)\n\nTags the collectives that this thread calls inside the `with`."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool add_role_type(PyObject* module) {
  if (PyType_Ready(&role_type) < 0) return false;
  Py_INCREF(&role_type);
  return PyModule_AddObject(module, "Role", reinterpret_cast<PyObject*>(&role_type)) == 0 &&
         PyModule_AddFunctions(module, module_functions) == 0;
}

}  // namespace wanhook
