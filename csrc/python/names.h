// String ids for Python strs.
#pragma once

#include <Python.h>

#include <cstdint>

#include "core/recorder.h"

namespace wanhook {

// The id of a str's text. Literals are one object each time they come by, so a small cache by address answers for
// them; it keeps its entries alive. Needs the GIL.
inline uint32_t name_id(PyObject* name) {
  struct Entry {
    PyObject* name;
    uint32_t id;
  };
  static Entry cache[512];
  Entry& entry = cache[(reinterpret_cast<uintptr_t>(name) >> 4) & 511];
  if (entry.name == name) return entry.id;
  Py_ssize_t length = 0;
  const char* text = PyUnicode_AsUTF8AndSize(name, &length);
  if (text == nullptr) {
    PyErr_Clear();
    text = "?";
    length = 1;
  }
  const uint32_t id = Recorder::get().intern({text, static_cast<size_t>(length)});
  // Names built at run time come once; only literals and their like are worth a place.
  if (PyUnicode_CHECK_INTERNED(name)) {
    Py_INCREF(name);
    Py_XSETREF(entry.name, name);
    entry.id = id;
  }
  return id;
}

}  // namespace wanhook
