#include "python/open_scope.h"

#include "core/recorder.h"
#include "core/thread_state.h"
#include "python/without_gil.h"

// PyVarObject_HEAD_INIT begins every static type, here as everywhere, and leaves the other members zero.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace wanhook {
namespace {

extern PyTypeObject open_scope_type;

PyObject* current_scope = nullptr;  // ContextVar
// To set a context variable takes some 1400 instructions and makes three objects, more than all else that a scope does
// in the interpreter. So blocks and operators that native code holds open around a call stay out of it: the call is
// over before the thread does anything else outside of it. What is entered inside, in that context, is held too.
__thread HeldScope held;

// Null in a thread that has used no context variable yet.
PyObject* this_context() { return PyThreadState_Get()->context; }

// Borrowed; null for none.
OpenScope* innermost_in_context() {
  PyObject* value = nullptr;
  if (PyContextVar_Get(current_scope, nullptr, &value) < 0) {
    PyErr_Clear();
    return nullptr;
  }
  if (value == nullptr) return nullptr;
  Py_DECREF(value);  // the context keeps it
  return is_open_scope(value) ? reinterpret_cast<OpenScope*>(value) : nullptr;
}

// The scope, or the innermost one around it, that was not closed from outside.
OpenScope* still_open(OpenScope* scope) {
  while (scope != nullptr && scope->closed) scope = scope->outer;
  return scope;
}

// The same of those that the context variable has.
OpenScope* still_open_in_context(OpenScope* scope) {
  while (scope != nullptr && (scope->closed || !scope->in_context)) scope = scope->outer;
  return scope;
}

void put_in_context(OpenScope* scope) {
  PyObject* token = PyContextVar_Set(current_scope, scope == nullptr ? Py_None : reinterpret_cast<PyObject*>(scope));
  if (token == nullptr) PyErr_Clear();
  Py_XDECREF(token);
}

[[gnu::hot]] void become_innermost(OpenScope* scope, bool around_call) {
  PyObject* context = this_context();
  HeldScope& now = held;
  scope->in_context = !around_call || context == nullptr;
  if (!scope->in_context || (now.scope != nullptr && now.context == context)) {
    scope->before = now;
    now = {scope, context};
    Py_INCREF(reinterpret_cast<PyObject*>(scope));
  }
  if (scope->in_context) put_in_context(scope);
  thread_state.scope = id_of(in_current_recording(scope));
}

[[gnu::hot]] void let_go_of_closed() {
  HeldScope& now = held;
  while (now.scope != nullptr && now.scope->closed) {
    OpenScope* closed = now.scope;
    now = closed->before;
    closed->before = {};
    Py_DECREF(reinterpret_cast<PyObject*>(closed));
  }
}

// `outer` is innermost again, where others were; `in_context`: the context variable has one of those.
[[gnu::hot]] void give_way(OpenScope* outer, bool in_context) {
  thread_state.scope = id_of(in_current_recording(outer));
  if (in_context) put_in_context(still_open_in_context(outer));
}

bool encloses(const OpenScope* outer, const OpenScope* inner) {
  while (inner != nullptr && inner != outer) inner = inner->outer;
  return inner != nullptr;
}

// Closed for every other thread before the GIL is let go of: each scope is ended once, whoever of them gets there
// first.
[[gnu::hot]] void close_scope(OpenScope* scope, uint8_t flags) {
  if (scope->closed) return;
  scope->closed = true;
  const WithoutGil unlocked(may_wait(scope->scope));
  scope->scope.used = end_scope(scope->scope, flags);
}

[[gnu::hot]] void free_open_scope(OpenScope* scope) {
  Py_DECREF(scope->name);
  Py_XDECREF(reinterpret_cast<PyObject*>(scope->parent));
  Py_XDECREF(reinterpret_cast<PyObject*>(scope->outer));
  Py_XDECREF(reinterpret_cast<PyObject*>(scope->outer_use));
  Py_XDECREF(reinterpret_cast<PyObject*>(scope->before.scope));
  PyObject_Free(scope);
}

// The last reference to a scope can be the last one to all those around it. They wait for each other here: as many as a
// program that leaves none has entered would be more than the stack holds. Under the GIL.
[[gnu::hot]] void open_scope_dealloc(PyObject* self) {
  static OpenScope* dead = nullptr;
  static bool emptying = false;
  auto* scope = reinterpret_cast<OpenScope*>(self);
  scope->next_dead = dead;
  dead = scope;
  if (emptying) return;
  emptying = true;
  while (dead != nullptr) {
    scope = dead;
    dead = scope->next_dead;
    free_open_scope(scope);
  }
  emptying = false;
}

PyObject* open_scope_id(PyObject* self, void*) {
  return PyLong_FromUnsignedLong(reinterpret_cast<OpenScope*>(self)->scope.id);
}

PyGetSetDef open_scope_fields[] = {
    {"id", open_scope_id, nullptr, "Number of the scope in the trace file, 0 when it is not recorded.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyTypeObject make_open_scope_type() {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "wanhook.Scope";
  type.tp_doc = "An entered scope, as `with wanhook.trace(...) as scope` gives it; usable as `parent=` elsewhere.";
  type.tp_basicsize = sizeof(OpenScope);
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
  type.tp_dealloc = open_scope_dealloc;
  type.tp_getset = open_scope_fields;
  return type;
}
PyTypeObject open_scope_type = make_open_scope_type();

}  // namespace

bool add_open_scope_type(PyObject* module) {
  current_scope = PyContextVar_New("wanhook.current_scope", nullptr);
  return current_scope != nullptr && PyModule_AddType(module, &open_scope_type) == 0;
}

bool is_open_scope(PyObject* object) noexcept { return Py_IS_TYPE(object, &open_scope_type); }

[[gnu::hot]] OpenScope* new_open_scope(PyObject* name, OpenScope* parent, OpenScope* outer) {
  auto* scope = PyObject_New(OpenScope, &open_scope_type);
  if (scope == nullptr) return nullptr;
  scope->scope = Scope{};
  scope->name = Py_NewRef(name);
  scope->parent = parent;
  Py_XINCREF(reinterpret_cast<PyObject*>(parent));
  scope->outer = outer;
  Py_XINCREF(reinterpret_cast<PyObject*>(outer));
  scope->outer_use = nullptr;
  scope->before = {};
  scope->in_context = false;
  scope->closed = false;
  scope->watched = 0;
  scope->owned_recording = 0;
  return scope;
}

[[gnu::hot]] void begin_open_scope(OpenScope* scope, const ScopeRequest& request, bool around_call) {
  {
    const WithoutGil unlocked(may_wait(request));
    scope->scope = begin_scope(request);
  }
  // An unrecorded scope is nobody's innermost: nothing would be told about it.
  if (scope->scope.recording != nullptr || scope->owned_recording != 0) become_innermost(scope, around_call);
}

[[gnu::hot]] void leave_open_scope(OpenScope* scope, uint8_t flags) {
  if (scope->closed) return;
  OpenScope* innermost = innermost_open();
  const bool ours = encloses(scope, innermost);
  bool in_context = scope->in_context;
  if (ours) {
    for (OpenScope* inner = innermost; inner != scope; inner = inner->outer) {
      in_context = in_context || inner->in_context;
      close_scope(inner, kScopeClosedByOuter);
    }
  }
  close_scope(scope, flags);
  let_go_of_closed();
  if (ours) {
    give_way(still_open(scope->outer), in_context);
    return;
  }
  if (thread_state.scope == scope->scope.id) thread_state.scope = 0;
}

[[gnu::hot]] OpenScope* innermost_open() {
  const HeldScope now = held;
  if (now.scope != nullptr && now.context == this_context()) return still_open(now.scope);
  OpenScope* innermost = still_open(innermost_in_context());
  // Another context that knows all there is to know around the held scope: a copy that was made inside of it, and runs
  // there, as asyncio.run() does it.
  const bool inside = now.scope != nullptr && still_open_in_context(now.scope) == innermost;
  return inside ? still_open(now.scope) : innermost;
}

OpenScope* in_current_recording(OpenScope* scope) {
  const Recording* current = Recorder::current();
  const auto recorded = [current](const OpenScope* each) {
    return !each->closed && each->scope.recording != nullptr && each->scope.recording == current;
  };
  while (scope != nullptr && !recorded(scope)) scope = scope->outer;
  return scope;
}

PyObject* path_of(const OpenScope* scope) {
  PyObject* names = PyList_New(0);
  bool listed = names != nullptr;
  for (; listed && scope != nullptr; scope = scope->parent) listed = PyList_Append(names, scope->name) == 0;
  PyObject* slash = listed && PyList_Reverse(names) == 0 ? PyUnicode_FromString("/") : nullptr;
  PyObject* path = slash == nullptr ? nullptr : PyUnicode_Join(slash, names);
  Py_XDECREF(slash);
  Py_XDECREF(names);
  return path;
}

}  // namespace wanhook
