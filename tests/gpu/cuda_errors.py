"""The CUDA runtime's own view of the calling thread, which torch has no function for."""

import ctypes
from functools import lru_cache
from pathlib import Path


@lru_cache
def cuda_runtime() -> ctypes.CDLL:
    # The library that torch has loaded: a second copy would keep errors of its own. A made-up runtime is preloaded.
    if hasattr(ctypes.CDLL(None), "cudaPeekAtLastError"):
        return ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = line.split(maxsplit=5)[-1]
        if "libcudart" in path:
            return ctypes.CDLL(path)
    raise RuntimeError("libcudart is not loaded: torch was not imported, or carries the runtime inside itself")


def last_error() -> int:
    """cudaPeekAtLastError() of this thread: 0 when a CUDA call of the host program would find nothing amiss."""
    return int(cuda_runtime().cudaPeekAtLastError())


def take_error() -> int:
    """cudaGetLastError(): the same, and the error is gone, unless it is one that stays for good."""
    return int(cuda_runtime().cudaGetLastError())


def current_runtime_device() -> int:
    """cudaGetDevice() of this thread, which can be another device than torch.cuda.current_device()."""
    device = ctypes.c_int(-1)
    assert int(cuda_runtime().cudaGetDevice(ctypes.byref(device))) == 0
    return device.value
