#include "python/scope_types.h"

#include <memory>
#include <string>

#include "core/hook_profile.h"
#include "device/scopes.h"
#include "python/json_args.h"
#include "python/names.h"
#include "python/open_scope.h"
#include "python/watermark.h"

// PyVarObject_HEAD_INIT begins every static type, here as everywhere, and leaves the other members zero.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace wanhook {
namespace {

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

extern PyTypeObject trace_type;

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
// reference; null with an error set. For `around_call` see begin_open_scope().
[[gnu::hot]] OpenScope* enter(Trace* trace, OpenScope* outer, long started, bool around_call) {
  auto* parent = trace->parent == nullptr ? outer : reinterpret_cast<OpenScope*>(trace->parent);
  OpenScope* scope = new_open_scope(trace->name, in_current_recording(parent), outer);
  if (scope == nullptr) return nullptr;
  scope->owned_recording = started;
  ScopeRequest request;
  if (trace->name_id == 0) trace->name_id = name_id(trace->name);
  request.name = trace->name_id;
  request.parent = id_of(scope->parent);
  if (scope->parent != nullptr) request.parent_recording = scope->parent->scope.recording;
  request.level = trace->level;
  // Not the scope that a whole recording lies in: its only step could be a muted one.
  request.verify = started == 0 && (trace->verify || is_verified(request.name));
  // From here on other threads may run, and let go of the Trace; it has the arguments.
  Py_INCREF(reinterpret_cast<PyObject*>(trace));
  if (trace->args != nullptr) request.args = **trace->args;
  const bool watched = __builtin_expect(watched_name != 0 && request.name == watched_name, 0);
  if (watched && Recorder::active() != nullptr) scope->watched = tell_entered();
  begin_open_scope(scope, request, around_call);
  Py_DECREF(reinterpret_cast<PyObject*>(trace));
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
  leave_open_scope(scope, is_failure(exception) ? kScopeException : 0);
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
  if (!is_open_scope(value)) {
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
  return add_open_scope_type(module) && PyModule_AddType(module, &trace_type) == 0 &&
         PyModule_AddFunctions(module, module_functions) == 0;
}

}  // namespace wanhook
