#include "python/scope_types.h"

#include <memory>
#include <string>

#include "core/hook_profile.h"
#include "core/thread_state.h"
#include "device/scopes.h"
#include "python/json_args.h"
#include "python/names.h"
#include "python/watermark.h"

// PyVarObject_HEAD_INIT begins every static type, here as everywhere, and leaves the other members zero.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace wanhook {
namespace {

struct OpenScope;

// The innermost scope while native code keeps one open around a call, a strong reference, and the context that it is
// innermost in: an address that tells contexts apart.
struct HeldScope {
  OpenScope* scope;
  PyObject* context;
};

// An entered scope. `outer` is the one that was innermost in this context when it was entered, and is again when it is
// left; a scope with parent= has another parent in the file, and none of its context's business.
struct OpenScope {
  PyObject_HEAD
  Scope scope;
  PyObject* name;
  OpenScope* parent;     // in the file, null for a root; strong reference
  OpenScope* outer;      // strong reference
  OpenScope* outer_use;  // the same Trace object entered a second time before it was left
  HeldScope before;      // what was held when this one came to be, and is again when it is closed
  bool in_context;       // the context variable has it, or had
  bool closed;
  long watched;          // the watcher's number for it, 0 when its leaving is of no interest
  long owned_recording;  // the recording that this scope started and ends, as begin_recording named it; 0 for none
  OpenScope* next_dead;  // of the scopes that wait for open_scope_dealloc; not set before
};

// What trace() returns: a name and arguments, ready to be entered any number of times.
struct Trace {
  PyObject_HEAD
  PyObject* name;
  PyObject* out;       // directory or null
  PyObject* parent;    // OpenScope or null
  OpenScope* innermost_use;
  std::shared_ptr<const std::string>* args;  // JSON object or null
  uint32_t name_id;                          // 0: not asked for yet
  ScopeLevel level;
  bool verify;
};

extern PyTypeObject open_scope_type;
extern PyTypeObject trace_type;

PyObject* current_scope = nullptr;  // ContextVar
// To set a context variable takes some 1400 instructions and makes three objects, more than all else that a scope does
// in the interpreter. So blocks and operators that native code holds open around a call stay out of it: the call is
// over before the thread does anything else outside of it. What is entered inside, in that context, is held too.
__thread HeldScope held;

// Called with (out or None) when a scope is entered and nothing is recorded. Answers with a number that names the
// recording it started, 0 when it started none, None when it never will for scopes without `out`.
PyObject* begin_recording = nullptr;
bool never_start = false;
PyObject* end_recording = nullptr;
PyObject* decorate = nullptr;  // called with (trace, function)
// Scopes of one name are watched from Python. `scope_entered` is called before such a scope begins and answers with a
// number; unless that is 0, `scope_left` is called with it and the scope's id after the scope ended. 0: no name is
// watched.
uint32_t watched_name = 0;
PyObject* scope_entered = nullptr;
PyObject* scope_left = nullptr;

bool still_recorded(const OpenScope* scope) {
  return scope->scope.recording != nullptr && scope->scope.recording == Recorder::current();
}

// The scope or what it lies in: the innermost that is open in the current recording. Null: none.
OpenScope* in_current_recording(OpenScope* scope) {
  while (scope != nullptr && (scope->closed || !still_recorded(scope))) scope = scope->outer;
  return scope;
}

uint32_t id_of(const OpenScope* scope) { return scope == nullptr ? 0 : scope->scope.id; }

// As in the report: names from the outermost on, with slashes between. A new reference; null with an error set.
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
  return Py_IS_TYPE(value, &open_scope_type) ? reinterpret_cast<OpenScope*>(value) : nullptr;
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

// Borrowed; null when no scope is open in this context.
[[gnu::hot]] OpenScope* innermost_open() {
  const HeldScope now = held;
  if (now.scope != nullptr && now.context == this_context()) return still_open(now.scope);
  OpenScope* innermost = still_open(innermost_in_context());
  // Another context that knows all there is to know around the held scope: a copy that was made inside of it, and runs
  // there, as asyncio.run() does it.
  const bool inside = now.scope != nullptr && still_open_in_context(now.scope) == innermost;
  return inside ? still_open(now.scope) : innermost;
}

void put_in_context(OpenScope* scope) {
  PyObject* token = PyContextVar_Set(current_scope, scope == nullptr ? Py_None : reinterpret_cast<PyObject*>(scope));
  if (token == nullptr) PyErr_Clear();
  Py_XDECREF(token);
}

// `around_call`: native code holds it open around a call, and leaves it when that returns.
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

// `outer` is innermost again, where `scope` was.
[[gnu::hot]] void give_way(const OpenScope* scope, OpenScope* outer) {
  thread_state.scope = id_of(in_current_recording(outer));
  if (scope->in_context) put_in_context(still_open_in_context(outer));
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

// The number of the recording that was started for this scope; 0: none; -1: error set (an `out` that cannot be
// written).
[[gnu::hot]] long start_recording_if_outermost(const Trace* trace) {
  if (Recorder::current() != nullptr || innermost_open() != nullptr || trace->parent != nullptr) return 0;
  if (begin_recording == nullptr || Recorder::in_forked_child() || (never_start && trace->out == nullptr)) return 0;
  // The name of a scope that is to be checked and cannot be: what a recording lies in is no step of it.
  PyObject* verified = trace->verify ? trace->name : Py_None;
  PyObject* started =
      PyObject_CallFunctionObjArgs(begin_recording, trace->out == nullptr ? Py_None : trace->out, verified, nullptr);
  if (started == nullptr) return -1;
  if (started == Py_None) never_start = true;
  const long result = started == Py_None ? 0 : PyLong_AsLong(started);
  Py_DECREF(started);
  return result;
}

bool is_verified(uint32_t name) {
  const Recording* recording = Recorder::current();
  return recording != nullptr && name != 0 && name == recording->verified();
}

// The watcher's number for this scope; 0: it does not want to hear of it again. The program in the scope must not get
// an exception of ours.
long tell_entered() {
  PyObject* answer = PyObject_CallNoArgs(scope_entered);
  const long number = answer == nullptr ? -1 : PyLong_AsLong(answer);
  Py_XDECREF(answer);
  if (number == -1 && PyErr_Occurred() != nullptr) PyErr_WriteUnraisable(scope_entered);
  return number > 0 ? number : 0;
}

void tell_left(long number, uint32_t id) {
  PyObject* result = PyObject_CallFunction(scope_left, "lI", number, id);
  if (result == nullptr) PyErr_WriteUnraisable(scope_left);
  Py_XDECREF(result);
}

// Begins a scope of `trace` inside of `outer`; `started` names the recording that was started for it, 0 for none. A new
// reference; null with an error set. For `around_call` see become_innermost().
[[gnu::hot]] OpenScope* enter(Trace* trace, OpenScope* outer, long started, bool around_call) {
  auto* scope = PyObject_New(OpenScope, &open_scope_type);
  if (scope == nullptr) return nullptr;
  scope->name = Py_NewRef(trace->name);
  scope->parent = in_current_recording(trace->parent == nullptr ? outer : reinterpret_cast<OpenScope*>(trace->parent));
  Py_XINCREF(reinterpret_cast<PyObject*>(scope->parent));
  ScopeRequest request;
  if (trace->name_id == 0) trace->name_id = name_id(trace->name);
  request.name = trace->name_id;
  request.parent = id_of(scope->parent);
  request.level = trace->level;
  // Not the scope that a whole recording lies in: its only step could be a muted one.
  request.verify = started == 0 && (trace->verify || is_verified(request.name));
  if (trace->args != nullptr) request.args = **trace->args;
  const bool watched = __builtin_expect(watched_name != 0 && request.name == watched_name, 0);
  scope->watched = watched && Recorder::active() != nullptr ? tell_entered() : 0;
  scope->scope = begin_scope(request);
  scope->outer = outer;
  Py_XINCREF(reinterpret_cast<PyObject*>(outer));
  scope->outer_use = nullptr;
  scope->before = {};
  scope->in_context = false;
  scope->closed = false;
  scope->owned_recording = started;
  // An unrecorded scope is nobody's innermost: nothing would be told about it.
  if (scope->scope.recording != nullptr || scope->owned_recording != 0) become_innermost(scope, around_call);
  if (scope->scope.used >= watermark()) tell_watermark_reached(scope->scope.used, path_of(scope));
  return scope;
}

[[gnu::hot]] PyObject* trace_enter(PyObject* self, PyObject*) {
  auto* trace = reinterpret_cast<Trace*>(self);
  OpenScope* outer = innermost_open();
  const long started = start_recording_if_outermost(trace);
  if (started < 0) return nullptr;
  OpenScope* scope = enter(trace, outer, started, /*around_call=*/false);
  if (scope == nullptr) return nullptr;
  scope->outer_use = trace->innermost_use;
  trace->innermost_use = scope;  // takes this reference
  Py_INCREF(reinterpret_cast<PyObject*>(scope));
  return reinterpret_cast<PyObject*>(scope);
}

bool encloses(const OpenScope* outer, const OpenScope* inner) {
  while (inner != nullptr && inner != outer) inner = inner->outer;
  return inner != nullptr;
}

void close_scope(OpenScope* scope, uint8_t flags) {
  scope->closed = true;
  scope->scope.used = end_scope(scope->scope, flags);
}

[[gnu::hot]] void leave(OpenScope* scope, uint8_t flags) {
  if (scope->closed) return;
  OpenScope* innermost = innermost_open();
  const bool ours = encloses(scope, innermost);
  if (ours) {
    for (OpenScope* inner = innermost; inner != scope; inner = inner->outer) {
      if (!inner->closed) close_scope(inner, kScopeClosedByOuter);
    }
  }
  close_scope(scope, flags);
  let_go_of_closed();
  if (ours) {
    give_way(scope, still_open(scope->outer));
    return;
  }
  if (thread_state.scope == scope->scope.id) thread_state.scope = 0;
}

// How generators and asynchronous generators end is no failure.
bool is_failure(PyObject* exception) {
  return exception != Py_None && !PyErr_GivenExceptionMatches(exception, PyExc_StopIteration) &&
         !PyErr_GivenExceptionMatches(exception, PyExc_StopAsyncIteration) &&
         !PyErr_GivenExceptionMatches(exception, PyExc_GeneratorExit);
}

// False with an error set where the program was interrupted meanwhile: KeyboardInterrupt, or a signal handler's exit.
[[gnu::hot]] bool call_end_recording(long number) {
  if (end_recording == nullptr || number == 0) return true;
  PyObject* result = PyObject_CallFunction(end_recording, "l", number);
  if (result == nullptr && PyErr_ExceptionMatches(PyExc_Exception) == 0) return false;
  // An exception from us must not take the place of the host program's own.
  if (result == nullptr) PyErr_WriteUnraisable(end_recording);
  Py_XDECREF(result);
  return true;
}

// Ends the scope that enter() began, and takes its reference. The number of the recording that it owns.
[[gnu::hot]] long finish(OpenScope* scope, PyObject* exception) {
  const bool closed_before = scope->closed;
  leave(scope, is_failure(exception) ? kScopeException : 0);
  if (!closed_before && scope->scope.used >= watermark()) tell_watermark_reached(scope->scope.used, path_of(scope));
  if (scope->watched != 0) tell_left(scope->watched, scope->scope.id);
  const long owned_recording = scope->owned_recording;
  Py_DECREF(reinterpret_cast<PyObject*>(scope));
  return owned_recording;
}

[[gnu::hot]] PyObject* trace_exit(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  auto* trace = reinterpret_cast<Trace*>(self);
  OpenScope* scope = trace->innermost_use;
  if (scope == nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "this wanhook.trace() was left more often than entered");
    return nullptr;
  }
  trace->innermost_use = scope->outer_use;
  scope->outer_use = nullptr;
  if (!call_end_recording(finish(scope, count > 0 ? args[0] : Py_None))) return nullptr;
  Py_RETURN_FALSE;
}

PyObject* trace_call(PyObject* self, PyObject* args, PyObject* keywords) {
  PyObject* function = nullptr;
  static const char* names[] = {"function", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", const_cast<char**>(names), &function)) return nullptr;
  return PyObject_CallFunctionObjArgs(decorate, self, function, nullptr);
}

[[gnu::hot]] void trace_dealloc(PyObject* self) {
  auto* trace = reinterpret_cast<Trace*>(self);
  Py_XDECREF(trace->name);
  Py_XDECREF(trace->out);
  Py_XDECREF(trace->parent);
  Py_XDECREF(reinterpret_cast<PyObject*>(trace->innermost_use));
  delete trace->args;
  PyObject_Free(self);
}

PyMethodDef trace_methods[] = {{"__enter__", trace_enter, METH_NOARGS, "Opens the scope and returns it."},
                               {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(trace_exit)),
                                METH_FASTCALL, "Closes the scope."},
                               {nullptr, nullptr, 0, nullptr}};

PyTypeObject make_trace_type() {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "wanhook.Trace";
  type.tp_doc = "A named scope, to be used in a `with` statement or as a decorator. Made by wanhook.trace().";
  type.tp_basicsize = sizeof(Trace);
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
  type.tp_dealloc = trace_dealloc;
  type.tp_call = trace_call;
  type.tp_methods = trace_methods;
  return type;
}
PyTypeObject trace_type = make_trace_type();

bool parse_level(PyObject* value, ScopeLevel* level) {
  static const char* const names[] = {"stage", "block", "op"};
  for (int index = 0; index < 3; ++index) {
    if (PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, names[index]) == 0) {
      *level = static_cast<ScopeLevel>(index);
      return true;
    }
  }
  PyErr_Format(PyExc_ValueError, "level must be 'stage', 'block' or 'op', not %R", value);
  return false;
}

bool parse_parent(PyObject* value, PyObject** parent) {
  if (value == Py_None) return true;
  if (!Py_IS_TYPE(value, &open_scope_type)) {
    PyErr_Format(PyExc_TypeError,
                 "parent must be a scope that was entered (`with wanhook.trace(...) as scope`), not %.100s",
                 Py_TYPE(value)->tp_name);
    return false;
  }
  Py_INCREF(value);
  Py_XSETREF(*parent, value);
  return true;
}

// Takes one keyword of trace(): one of its own, or an argument of the scope.
bool take_keyword(Trace* trace, std::string* args, PyObject* key, PyObject* value) {
  if (PyUnicode_CompareWithASCIIString(key, "level") == 0) return parse_level(value, &trace->level);
  if (PyUnicode_CompareWithASCIIString(key, "parent") == 0) return parse_parent(value, &trace->parent);
  if (PyUnicode_CompareWithASCIIString(key, "verify") == 0) {
    const int truth = PyObject_IsTrue(value);
    trace->verify = truth > 0;
    return truth >= 0;
  }
  if (PyUnicode_CompareWithASCIIString(key, "out") == 0) {
    if (value == Py_None) return true;
    Py_INCREF(value);
    Py_XSETREF(trace->out, value);
    return true;
  }
  args->push_back(args->empty() ? '{' : ',');
  return append_json_member(args, key, value);
}

void finish_json(std::string* json) {
  if (!json->empty()) json->push_back('}');
  if (json->size() > kMaxTextBytes) *json = "{\"clipped\":true}";
}

bool check_name(PyObject* const* args, Py_ssize_t count, const char* function) {
  if (count == 1 && PyUnicode_Check(args[0])) return true;
  PyErr_Format(PyExc_TypeError, "%s() takes one positional argument, its name, a str", function);
  return false;
}

[[gnu::hot]] Trace* new_trace(PyObject* name, ScopeLevel level) {
  auto* trace = PyObject_New(Trace, &trace_type);
  if (trace == nullptr) return nullptr;
  Py_INCREF(name);
  trace->name = name;
  trace->out = nullptr;
  trace->parent = nullptr;
  trace->innermost_use = nullptr;
  trace->args = nullptr;
  trace->name_id = 0;
  trace->level = level;
  trace->verify = false;
  return trace;
}

[[gnu::hot]] PyObject* make_trace(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  if (!check_name(args, count, "trace")) return nullptr;
  Trace* trace = new_trace(args[0], ScopeLevel::kStage);
  if (trace == nullptr || keywords == nullptr) return reinterpret_cast<PyObject*>(trace);
  std::string json;
  for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(keywords); ++index) {
    if (!take_keyword(trace, &json, PyTuple_GET_ITEM(keywords, index), args[count + index])) {
      Py_DECREF(reinterpret_cast<PyObject*>(trace));
      return nullptr;
    }
  }
  finish_json(&json);
  if (!json.empty()) {
    trace->args = new std::shared_ptr<const std::string>(std::make_shared<const std::string>(std::move(json)));
  }
  return reinterpret_cast<PyObject*>(trace);
}

// A Trace knows its uses as a stack, so each call of a decorated function, on whatever thread or task, needs its own.
[[gnu::hot]] PyObject* make_again(PyObject*, PyObject* argument) {
  if (!Py_IS_TYPE(argument, &trace_type)) {
    PyErr_SetString(PyExc_TypeError, "again() takes what trace() returned");
    return nullptr;
  }
  auto* original = reinterpret_cast<Trace*>(argument);
  Trace* trace = new_trace(original->name, original->level);
  if (trace == nullptr) return nullptr;
  Py_XINCREF(original->out);
  trace->out = original->out;
  Py_XINCREF(original->parent);
  trace->parent = original->parent;
  trace->verify = original->verify;
  trace->name_id = original->name_id;
  if (original->args != nullptr) trace->args = new std::shared_ptr<const std::string>(*original->args);
  return reinterpret_cast<PyObject*>(trace);
}

// For what runs in steps, each of them a scope: the recording belongs to the whole of it.
PyObject* begin_outermost(PyObject*, PyObject* argument) {
  if (!Py_IS_TYPE(argument, &trace_type)) {
    PyErr_SetString(PyExc_TypeError, "begin_outermost() takes what trace() returned");
    return nullptr;
  }
  const long started = start_recording_if_outermost(reinterpret_cast<Trace*>(argument));
  return started < 0 ? nullptr : PyLong_FromLong(started);
}

PyObject* end_outermost(PyObject*, PyObject* argument) {
  const long number = PyLong_AsLong(argument);
  if (number == -1 && PyErr_Occurred() != nullptr) return nullptr;
  if (!call_end_recording(number)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* make_mark(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  if (!check_name(args, count, "mark")) return nullptr;
  if (Recorder::active() == nullptr) Py_RETURN_NONE;
  std::string json;
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t index = 0; index < named; ++index) {
    json.push_back(index == 0 ? '{' : ',');
    if (!append_json_member(&json, PyTuple_GET_ITEM(keywords, index), args[count + index])) return nullptr;
  }
  finish_json(&json);
  mark(name_id(args[0]), json);
  Py_RETURN_NONE;
}

PyObject* set_outermost_hooks(PyObject*, PyObject* args) {
  PyObject* begin = nullptr;
  PyObject* end = nullptr;
  PyObject* decorator = nullptr;
  if (!PyArg_ParseTuple(args, "OOO", &begin, &end, &decorator)) return nullptr;
  Py_INCREF(begin);
  Py_INCREF(end);
  Py_INCREF(decorator);
  Py_XSETREF(begin_recording, begin);
  Py_XSETREF(end_recording, end);
  Py_XSETREF(decorate, decorator);
  never_start = false;
  Py_RETURN_NONE;
}

PyObject* watch_scopes(PyObject*, PyObject* args) {
  PyObject* name = nullptr;
  PyObject* entered = nullptr;
  PyObject* left = nullptr;
  if (!PyArg_ParseTuple(args, "O!OO", &PyUnicode_Type, &name, &entered, &left)) return nullptr;
  Py_INCREF(entered);
  Py_INCREF(left);
  watched_name = name_id(name);
  Py_XSETREF(scope_entered, entered);
  Py_XSETREF(scope_left, left);
  Py_RETURN_NONE;
}

// A scope that was entered still tells when it is left.
PyObject* watch_no_scopes(PyObject*, PyObject*) {
  watched_name = 0;
  Py_RETURN_NONE;
}

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

PyMethodDef module_functions[] = {
    {"trace", as_method(make_trace), METH_FASTCALL | METH_KEYWORDS,
     "trace(name, *, level='stage', parent=None, out=None, verify=False, **args)\n\nA named scope."},
    {"again", make_again, METH_O, "again(trace)\n\nA fresh Trace like the one given, for decorators."},
    {"begin_outermost", begin_outermost, METH_O,
     "begin_outermost(trace)\n\nStarts a recording if none runs; its number, or 0."},
    {"end_outermost", end_outermost, METH_O, "Ends the recording with that number, if it still runs."},
    {"mark", as_method(make_mark), METH_FASTCALL | METH_KEYWORDS, "mark(name, **args)\n\nAn instant."},
    {"set_outermost_hooks", set_outermost_hooks, METH_VARARGS,
     "set_outermost_hooks(begin_recording, end_recording, decorate)"},
    {"watch_scopes", watch_scopes, METH_VARARGS, "watch_scopes(name, entered, left)"},
    {"watch_no_scopes", watch_no_scopes, METH_NOARGS, "watch_no_scopes()"},
    {nullptr, nullptr, 0, nullptr}};

bool add_type(PyObject* module, const char* name, PyTypeObject* type) {
  if (PyType_Ready(type) < 0) return false;
  Py_INCREF(type);
  return PyModule_AddObject(module, name, reinterpret_cast<PyObject*>(type)) == 0;
}

}  // namespace

bool is_trace(PyObject* object) { return Py_IS_TYPE(object, &trace_type); }

bool records_now(PyObject* trace) {
  const Recording* recording = WANHOOK_LEFT_OUT(kNoScopes) ? nullptr : Recorder::active();
  return recording != nullptr && (reinterpret_cast<Trace*>(trace)->level <= recording->level() || watched_name != 0);
}

PyObject* enter_scope(PyObject* trace) {
  auto* described = reinterpret_cast<Trace*>(trace);
  // Stages are few, and what starts threads and tasks.
  const bool around_call = described->level != ScopeLevel::kStage;
  return reinterpret_cast<PyObject*>(enter(described, innermost_open(), 0, around_call));
}

void leave_scope(PyObject* scope, PyObject* exception) { finish(reinterpret_cast<OpenScope*>(scope), exception); }

bool add_scope_types(PyObject* module) {
  current_scope = PyContextVar_New("wanhook.current_scope", nullptr);
  return current_scope != nullptr && add_type(module, "Scope", &open_scope_type) &&
         add_type(module, "Trace", &trace_type) && PyModule_AddFunctions(module, module_functions) == 0;
}

}  // namespace wanhook
