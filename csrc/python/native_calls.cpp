#include "python/native_calls.h"

#include <cstring>
#include <initializer_list>

#include "core/hook_profile.h"
#include "core/recorder.h"
#include "core/thread_state.h"
#include "python/names.h"
#include "python/scope_types.h"
#include "python/wait_functions.h"

namespace wanhook {
namespace {

// Whether something evaluates this interpreter's frames in Python's place: dynamo does while it looks for what to
// compile.
[[gnu::hot]] bool frames_are_watched() noexcept {
  return _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) != _PyEval_EvalFrameDefault;
}

// What Python gives each function of its own: runs its code. Not declared in all versions' headers.
vectorcallfunc run_code = nullptr;

// A call as vectorcall has it: positional arguments, then those by keyword, whose names are a tuple or null.
struct Call {
  PyObject* const* arguments;
  size_t count_and_flag;
  PyObject* keywords;
  WANHOOK_CALL_TIMER(timer);

  Py_ssize_t positional() const noexcept { return PyVectorcall_NARGS(count_and_flag); }
  // Guarded as a call by Python's own code is: what calls itself through C alone would overflow the stack.
  PyObject* of(PyObject* function) const {
    if (Py_EnterRecursiveCall(" in a function that wanhook wraps") != 0) return nullptr;
    WANHOOK_CALL_GOES_OUT(timer);
    PyObject* result = PyObject_Vectorcall(function, arguments, count_and_flag, keywords);
    WANHOOK_CALL_IS_BACK(timer);
    Py_LeaveRecursiveCall();
    return result;
  }
  // By the function's own code.
  PyObject* in_python(PyObject* function) const { return run_code(function, arguments, count_and_flag, keywords); }
  // What that Python function says of the tuple of positional arguments. A new reference; null with an error set.
  PyObject* judged_by(PyObject* function) const {
    PyObject* tuple = PyTuple_New(positional());
    if (tuple == nullptr) return nullptr;
    for (Py_ssize_t at = 0; at < positional(); ++at) PyTuple_SET_ITEM(tuple, at, Py_NewRef(arguments[at]));
    PyObject* answer = PyObject_CallOneArg(function, tuple);
    Py_DECREF(tuple);
    return answer;
  }
};

// What the program raised, out of the way of calls that need no error to be set. Put back by hand: a destructor would
// do it without the GIL where a thread is ended inside of such a call (python/without_gil.h).
class RaisedException {
 public:
#if PY_VERSION_HEX >= 0x030c0000
  RaisedException() : value_(PyErr_GetRaisedException()) {}
  void put_back() { PyErr_SetRaisedException(value_); }
  PyObject* type() const { return value_ == nullptr ? Py_None : reinterpret_cast<PyObject*>(Py_TYPE(value_)); }
#else
  RaisedException() { PyErr_Fetch(&type_, &value_, &traceback_); }
  void put_back() { PyErr_Restore(type_, value_, traceback_); }
  PyObject* type() const { return type_ == nullptr ? Py_None : type_; }
#endif

 private:
#if PY_VERSION_HEX < 0x030c0000
  PyObject* type_ = nullptr;
  PyObject* traceback_ = nullptr;
#endif
  PyObject* value_ = nullptr;
};

// The closure's cell of that number, borrowed; null for an empty one.
PyObject* free_variable(PyObject* function, Py_ssize_t number) noexcept {
  return PyCell_GET(PyTuple_GET_ITEM(reinterpret_cast<PyFunctionObject*>(function)->func_closure, number));
}

PyObject* torch_compiler = nullptr;  // the variables of that module, which torch keeps

void find_torch_compiler() {
  PyObject* modules = torch_compiler == nullptr ? PyImport_GetModuleDict() : nullptr;
  PyObject* module = modules == nullptr ? nullptr : PyDict_GetItemString(modules, "torch.compiler");
  if (module != nullptr && PyModule_Check(module)) torch_compiler = PyModule_GetDict(module);
}

// Also what torch.compiler.is_compiling() says, for code that asks for it: true as well where this version of torch has
// no such flag.
[[gnu::hot]] bool torch_traces() {
  static PyObject* const flag = PyUnicode_InternFromString("_is_compiling_flag");
  if (frames_are_watched() || flag == nullptr || torch_compiler == nullptr) return true;
  return PyDict_GetItemWithError(torch_compiler, flag) != Py_False;  // a str is looked up without an error
}

// Beginning and ending a scope or wait lets other threads run, which may put something else into the wrapper's cells:
// so what is called has a reference of its own. Let go of by hand, for the reason that RaisedException has.
[[gnu::hot]] PyObject* call_in_scope(PyObject* trace, PyObject* original, const Call& call) {
  if (!records_now(trace)) return call.of(original);
  Py_INCREF(original);
  PyObject* scope = enter_scope(trace);
  PyObject* result = scope == nullptr ? nullptr : call.of(original);
  Py_DECREF(original);
  if (scope == nullptr) return nullptr;
  if (result != nullptr) {
    leave_scope(scope, Py_None);
  } else {
    RaisedException raised;
    leave_scope(scope, raised.type());
    raised.put_back();
  }
  return result;
}

[[gnu::hot]] PyObject* in_scope(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* original = free_variable(self, 0);
  PyObject* trace = free_variable(self, 1);
  const bool ours = Recorder::current() != nullptr && !frames_are_watched() && original != nullptr &&
                    trace != nullptr && is_trace(trace);
  return ours ? call_in_scope(trace, original, call) : call.in_python(self);
}

// scopes[self.__dict__.get("_wanhook_index")], where it is there already. Borrowed; null without an error if not.
PyObject* scope_of_block(PyObject* scopes, PyObject* block) {
  static PyObject* const name = PyUnicode_InternFromString("_wanhook_index");
  PyObject* variables = name == nullptr ? nullptr : PyObject_GenericGetDict(block, nullptr);
  PyObject* index = variables == nullptr ? nullptr : PyDict_GetItemWithError(variables, name);
  PyObject* found = nullptr;
  if (variables != nullptr) found = PyDict_GetItemWithError(scopes, index == nullptr ? Py_None : index);
  Py_XDECREF(variables);
  PyErr_Clear();
  return found != nullptr && is_trace(found) ? found : nullptr;
}

[[gnu::hot]] PyObject* in_block(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* original = free_variable(self, 0);
  PyObject* scopes = free_variable(self, 1);
  const bool ours = Recorder::current() != nullptr && !torch_traces() && call.positional() > 0 && original != nullptr &&
                    scopes != nullptr && PyDict_Check(scopes);
  PyObject* trace = ours ? scope_of_block(scopes, arguments[0]) : nullptr;
  return trace == nullptr ? call.in_python(self) : call_in_scope(trace, original, call);
}

// scope_of: what names the scope, called with the model.
[[gnu::hot]] PyObject* in_forward(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* original = free_variable(self, 0);
  PyObject* scope_of = free_variable(self, 1);
  const bool ours = Recorder::current() != nullptr && !torch_traces() && call.positional() > 0 && original != nullptr &&
                    scope_of != nullptr;
  if (!ours) return call.in_python(self);
  PyObject* trace = PyObject_CallOneArg(scope_of, arguments[0]);
  if (trace == nullptr) return nullptr;
  PyObject* result = is_trace(trace) ? call_in_scope(trace, original, call) : call.of(original);
  Py_DECREF(trace);
  return result;
}

// The tags of this thread's collectives, for as long as it lives.
class Tagged {
 public:
  Tagged(uint32_t role, uint32_t unit) noexcept
      : state_(this_thread()), outer_role_(state_.role), outer_unit_(state_.unit) {
    state_.role = static_cast<uint16_t>(role);
    state_.unit = static_cast<uint16_t>(unit);
  }
  ~Tagged() {
    state_.role = outer_role_;
    state_.unit = outer_unit_;
  }
  Tagged(const Tagged&) = delete;
  Tagged& operator=(const Tagged&) = delete;

 private:
  ThreadState& state_;
  const uint16_t outer_role_;
  const uint16_t outer_unit_;
};

// The argument of that name, borrowed; null where there is none.
PyObject* named(const Call& call, const char* name) {
  const Py_ssize_t count = call.keywords == nullptr ? 0 : PyTuple_GET_SIZE(call.keywords);
  for (Py_ssize_t at = 0; at < count; ++at) {
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(call.keywords, at), name) == 0)
      return call.arguments[call.positional() + at];
  }
  return nullptr;
}

// roles: (what is scattered there by default, its role, the role of everything else). The dimension is the second
// argument, or goes by one of two names.
[[gnu::hot]] PyObject* in_role(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* original = free_variable(self, 0);
  PyObject* roles = free_variable(self, 1);
  const bool ours = !frames_are_watched() && original != nullptr && roles != nullptr && PyTuple_Check(roles) &&
                    PyTuple_GET_SIZE(roles) == 3;
  if (!ours) return call.in_python(self);
  PyObject* role = PyTuple_GET_ITEM(roles, 1);
  PyObject* other = PyTuple_GET_ITEM(roles, 2);
  if (role != other) {  // else nothing is asked: the argument may be a tensor
    PyObject* scattered = call.positional() > 1 ? arguments[1] : named(call, "scatter_dim");
    if (scattered == nullptr) scattered = named(call, "scatter_idx");
    const int same = scattered == nullptr ? 1 : PyObject_RichCompareBool(scattered, PyTuple_GET_ITEM(roles, 0), Py_EQ);
    if (same < 0) return nullptr;
    if (same == 0) role = other;
  }
  if (!PyUnicode_Check(role)) return call.in_python(self);
  const Tagged tagged(name_id(role), 0);
  return call.of(original);
}

// The argument at that place, borrowed; null where there is none.
PyObject* argument_at(const Call& call, PyObject* place) {
  const Py_ssize_t at = PyLong_AsSsize_t(place);  // a small int
  return at >= 0 && at < call.positional() ? call.arguments[at] : nullptr;
}

// known[id(unit)][1]. A new reference; null without an error if it is not there.
PyObject* known_name(PyObject* known, PyObject* unit) {
  PyObject* id = unit == nullptr ? nullptr : PyLong_FromVoidPtr(unit);
  PyObject* told = id == nullptr ? nullptr : PyDict_GetItemWithError(known, id);
  Py_XDECREF(id);
  PyErr_Clear();
  return told != nullptr && PyTuple_Check(told) && PyTuple_GET_SIZE(told) == 2 ? Py_NewRef(PyTuple_GET_ITEM(told, 1))
                                                                               : nullptr;
}

[[gnu::hot]] PyObject* with_unit(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* known = free_variable(self, 0);
  PyObject* original = free_variable(self, 1);
  PyObject* place = free_variable(self, 2);
  PyObject* role = free_variable(self, 3);
  PyObject* unit_of = free_variable(self, 4);
  const bool ours = !torch_traces() && known != nullptr && PyDict_Check(known) && original != nullptr &&
                    place != nullptr && PyLong_Check(place) && role != nullptr && PyUnicode_Check(role) &&
                    unit_of != nullptr;
  if (!ours) return call.in_python(self);
  PyObject* unit = known_name(known, argument_at(call, place));
  if (unit == nullptr) unit = call.judged_by(unit_of);
  if (unit == nullptr) return nullptr;
  const bool told = PyUnicode_Check(unit) && PyUnicode_GET_LENGTH(unit) > 0;
  const Tagged tagged(name_id(role), told ? name_id(unit) : 0);
  Py_DECREF(unit);
  return call.of(original);
}

[[gnu::hot]] PyObject* in_wait(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* may_wait = free_variable(self, 0);
  PyObject* name = free_variable(self, 1);
  PyObject* original = free_variable(self, 2);
  PyObject* place = free_variable(self, 3);
  const bool ours = !torch_traces() && may_wait != nullptr && name != nullptr && PyUnicode_Check(name) &&
                    original != nullptr && place != nullptr && PyLong_Check(place);
  if (!ours) return call.in_python(self);
  if (!wait_would_open()) return call.of(original);
  PyObject* unit = argument_at(call, place);
  int waits = unit != nullptr && unit != Py_None ? 1 : 0;
  if (waits != 0 && may_wait != Py_None) {
    PyObject* answer = call.judged_by(may_wait);
    waits = answer == nullptr ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
  }
  if (waits < 0) return nullptr;
  if (waits == 0) return call.of(original);
  Py_INCREF(original);
  const bool begun = begin_wait(name_id(name));
  PyObject* result = call.of(original);
  if (begun) end_wait();
  Py_DECREF(original);
  return result;
}

[[gnu::hot]] PyObject* behind_wait(PyObject* self, PyObject* const* arguments, size_t count, PyObject* keywords) {
  const Call call{arguments, count, keywords};
  PyObject* original = free_variable(self, 0);
  if (torch_traces() || original == nullptr) return call.in_python(self);
  Py_INCREF(original);
  end_wait();
  PyObject* result = call.of(original);
  Py_DECREF(original);
  return result;
}

// `variables`: what the function's code takes from around it, by name and so in this order.
struct Kind {
  const char* name;
  vectorcallfunc call;
  std::initializer_list<const char*> variables;
};

const Kind kinds[] = {
    {"scope", in_scope, {"original", "scope"}},
    {"block", in_block, {"original", "scopes"}},
    {"forward", in_forward, {"original", "scope_of"}},
    {"role", in_role, {"original", "roles"}},
    {"unit", with_unit, {"known", "original", "place", "role", "unit_of"}},
    {"wait", in_wait, {"may_wait", "name", "original", "place"}},
    {"behind wait", behind_wait, {"original"}},
};

// False, with an error set or none, unless the function's free variables are these.
bool takes_from_around(PyObject* function, const Kind& kind) {
  PyObject* code = PyFunction_GET_CODE(function);
  PyObject* names = PyObject_GetAttrString(code, "co_freevars");
  PyObject* closure = PyFunction_GET_CLOSURE(function);
  const auto wanted = static_cast<Py_ssize_t>(kind.variables.size());
  bool same = names != nullptr && closure != nullptr && PyTuple_GET_SIZE(names) == wanted;
  for (Py_ssize_t at = 0; same && at < wanted; ++at) {
    PyObject* name = PyTuple_GET_ITEM(names, at);
    same = PyUnicode_CompareWithASCIIString(name, kind.variables.begin()[at]) == 0 && free_variable(function, at);
  }
  Py_XDECREF(names);
  return same;
}

PyObject* call_natively(PyObject*, PyObject* arguments) {
  PyObject* function = nullptr;
  const char* name = nullptr;
  if (!PyArg_ParseTuple(arguments, "O!s", &PyFunction_Type, &function, &name)) return nullptr;
  for (const Kind& kind : kinds) {
    if (std::strcmp(kind.name, name) != 0) continue;
    find_torch_compiler();
    if (!takes_from_around(function, kind)) {
      if (PyErr_Occurred() == nullptr)
        PyErr_Format(PyExc_ValueError, "%R cannot be called natively as '%s': its free variables are others", function,
                     name);
      return nullptr;
    }
    auto* changed = reinterpret_cast<PyFunctionObject*>(function);
    if (run_code == nullptr) run_code = changed->vectorcall;
    if (changed->vectorcall == run_code) {  // else it is somebody's already
#if PY_VERSION_HEX >= 0x030c0000
      PyFunction_SetVectorcall(changed, kind.call);
#else
      changed->vectorcall = kind.call;
#endif
    }
    return Py_NewRef(function);
  }
  PyErr_Format(PyExc_ValueError, "no kind of call is named '%s'", name);
  return nullptr;
}

PyMethodDef module_functions[] = {
    {"call_natively", call_natively, METH_VARARGS,
     "call_natively(function, kind)\n\nMakes eager calls of this Python function run in the extension; the same "
     "function. Its code must be the kind's, and so must the names of its free variables: see native_calls.cpp."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool add_native_calls(PyObject* module) { return PyModule_AddFunctions(module, module_functions) == 0; }

}  // namespace wanhook
