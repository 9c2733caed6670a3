// An entered scope as a Python object, and which one is innermost.
//
// That is kept in a context variable, so each asyncio task, and each thread that runs in a copied context, has its own
// (not of blocks and operators in native calls: docs/architecture.md); the thread's innermost scope is mirrored into
// ThreadState for the hooks. A scope is left by identity: what is still open inside is closed with it, and what was
// closed that way is left in silence later.
//
// All functions need the GIL. Those that begin or end a scope let go of it meanwhile.
#pragma once

#include <Python.h>

#include "device/scopes.h"

namespace wanhook {

struct OpenScope;

// The innermost scope while native code keeps one open around a call, a strong reference, and the context that it is
// innermost in: an address that tells contexts apart.
struct HeldScope {
  OpenScope* scope;
  PyObject* context;
};

// `outer` is the one that was innermost in this context when it was entered, and is again when it is left; a scope with
// parent= has another parent in the file, and none of its context's business.
struct OpenScope {
  PyObject_HEAD
  Scope scope;
  PyObject* name;
  OpenScope* parent;  // in the file, null for a root; strong reference
  OpenScope* outer;  // strong reference
  OpenScope* outer_use;  // the same Trace object entered a second time before it was left
  HeldScope before;  // what was held when this one came to be, and is again when it is closed
  bool in_context;  // the context variable has it, or had
  bool closed;
  long watched;  // the watcher's number for it, 0 when its leaving is of no interest
  long owned_recording;  // the recording that this scope started and ends, as begin_recording named it; 0 for none
  OpenScope* next_dead;  // of the scopes that wait for their deallocation; not set before
};

// The type, as `Scope`. False with a Python error set.
bool add_open_scope_type(PyObject* module);
bool is_open_scope(PyObject* object) noexcept;

// One that is not begun yet. A new reference; null with an error set.
OpenScope* new_open_scope(PyObject* name, OpenScope* parent, OpenScope* outer);
// Begins it as `request` has it, whose arguments must live that long. `around_call`: native code holds it open around a
// call, and leaves it when that returns.
void begin_open_scope(OpenScope* scope, const ScopeRequest& request, bool around_call);
// Ends it and what is still open inside of it; nothing when it is closed already.
void leave_open_scope(OpenScope* scope, uint8_t flags);

// Borrowed; null when no scope is open in this context.
OpenScope* innermost_open();
// The scope or what it lies in: the innermost that is open in the current recording. Null: none.
OpenScope* in_current_recording(OpenScope* scope);
inline uint32_t id_of(const OpenScope* scope) { return scope == nullptr ? 0 : scope->scope.id; }
// As in the report: names from the outermost on, with slashes between. A new reference; null with an error set.
PyObject* path_of(const OpenScope* scope);

}  // namespace wanhook
