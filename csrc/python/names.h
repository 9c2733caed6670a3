// String ids for Python strs.
#pragma once

#include <Python.h>

#include <cstdint>

#include "core/recorder.h"

namespace wanhook {

// The id of a str's text. Literals are one object each time they come by, so a small cache by address answers for
// them; it keeps its entries alive. Needs the GIL.
//
// A name lies in one of four neighbours: with one place each, two names that are used in turn would put each other out
// in more than half of all programs, which have some thirty.
inline uint32_t name_id(PyObject* name) {
  struct Entry {
    PyObject* name;
    uint32_t id;
  };
  constexpr uintptr_t kNeighbours = 4;  // one cache line
  alignas(64) static Entry cache[512];
  const uintptr_t hash = reinterpret_cast<uintptr_t>(name) >> 4;
  Entry* const neighbours = &cache[hash & (511 - (kNeighbours - 1))];
  for (uintptr_t at = 0; at < kNeighbours; ++at) {
    if (neighbours[at].name == name) return neighbours[at].id;
  }
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
    uintptr_t place = hash & (kNeighbours - 1);
    for (uintptr_t at = 0; at < kNeighbours; ++at) {
      if (neighbours[at].name == nullptr) place = at;
    }
    Entry& entry = neighbours[place];
    Py_INCREF(name);
    Py_XSETREF(entry.name, name);
    entry.id = id;
  }
  return id;
}

}  // namespace wanhook
