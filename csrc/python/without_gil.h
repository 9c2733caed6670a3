// A stretch without the GIL, for what may wait: for a lock, for the disk, or, in a CUDA call, for another thread's
// launch or for room in a stream's queue. Who makes room there may be Python code itself: a function that the program
// has put onto the stream (cudaLaunchHostFunc).
#pragma once

#include <Python.h>

namespace wanhook {

// pybind11's guard takes the GIL back in a destructor that may not throw; but up to Python 3.13 a daemon thread that
// asks for it while the interpreter exits is ended by unwinding its stack, which would then be std::terminate for the
// whole process. For the same reason no function around one of these may be noexcept, nor have a destructor that needs
// the GIL.
class WithoutGil {
 public:
  WithoutGil() : WithoutGil(true) {}
  explicit WithoutGil(bool may_wait) : state_(may_wait ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() noexcept(false) {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace wanhook
