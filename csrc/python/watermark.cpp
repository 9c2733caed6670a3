#include "python/watermark.h"

#include <atomic>

namespace wanhook {
namespace {

std::atomic<float> wanted_share{kNoWatermark};
PyObject* on_reached = nullptr;

}  // namespace

void set_watermark(float share, PyObject* reached) {
  Py_XINCREF(reached);
  Py_XSETREF(on_reached, reached);
  wanted_share.store(share, std::memory_order_relaxed);
}

float watermark() noexcept { return wanted_share.load(std::memory_order_relaxed); }

void tell_watermark_reached(float used, PyObject* path) {
  if (path == nullptr || on_reached == nullptr) {
    PyErr_Clear();
    Py_XDECREF(path);
    return;
  }
  PyObject* called = on_reached;
  Py_INCREF(called);  // it may set another one
  PyObject* result = PyObject_CallFunction(called, "dO", static_cast<double>(used), path);
  if (result == nullptr) PyErr_WriteUnraisable(called);
  Py_XDECREF(result);
  Py_DECREF(called);
  Py_DECREF(path);
}

}  // namespace wanhook
