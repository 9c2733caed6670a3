#include "python/wait_functions.h"

#include "core/thread_state.h"
#include "device/scopes.h"
#include "python/names.h"
#include "python/without_gil.h"

namespace wanhook {
namespace {

// Constant-initialised and in one file only: no initialisation guard.
thread_local Scope open_wait;

[[gnu::hot]] PyObject* begin_wait_named(PyObject*, PyObject* name) {
  if (!PyUnicode_Check(name)) {
    PyErr_SetString(PyExc_TypeError, "begin_wait() takes the name of the wait, a str");
    return nullptr;
  }
  return PyBool_FromLong(wait_would_open() && begin_wait(name_id(name)));
}

[[gnu::hot]] PyObject* end_open_wait(PyObject*, PyObject*) {
  end_wait();
  Py_RETURN_NONE;
}

PyMethodDef module_functions[] = {
    {"begin_wait", begin_wait_named, METH_O,
     "begin_wait(name)\n\nOpens a wait scope on this thread's current stream; False when none was opened, because one "
     "is open or nothing is recorded."},
    {"end_wait", end_open_wait, METH_NOARGS, "end_wait()\n\nCloses this thread's wait scope, if it has one."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool wait_is_open() noexcept { return open_wait.recording != nullptr; }

bool wait_would_open() noexcept {
  const Recording* recording = Recorder::active();
  return recording != nullptr && recording->level() >= ScopeLevel::kOp && !wait_is_open();
}

bool begin_wait(uint32_t name) {
  if (!wait_would_open()) return false;
  ScopeRequest request;
  request.name = name;
  request.parent_recording = Recorder::active();
  request.parent = thread_state.scope_in(request.parent_recording);
  request.level = ScopeLevel::kOp;
  request.type = ScopeType::kWait;
  const WithoutGil unlocked(may_wait(request));
  open_wait = begin_scope(request);
  return open_wait.recording != nullptr;
}

void end_wait() {
  const WithoutGil unlocked(may_wait(open_wait));
  end_scope(open_wait, 0);
  open_wait = Scope{};
}

bool add_wait_functions(PyObject* module) { return PyModule_AddFunctions(module, module_functions) == 0; }

}  // namespace wanhook
