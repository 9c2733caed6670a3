"""The allocator's own alloc and free, timed in C++: from Python, what a tensor costs drowns what an entry costs.

Compiled on first use with $CXX (g++ when unset) against the installed torch; needs a CUDA build of torch.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from native_build.cuda_toolkit import find_cuda_files

SOURCE = Path(__file__).parent / "native" / "allocator_loop.cpp"


def build(folder: Path) -> Path:
    """The library. CalledProcessError when it does not compile, with the compiler's words on stderr."""
    from torch.utils.cpp_extension import include_paths, library_paths  # says something on machines without a GPU

    cuda = find_cuda_files(torch.version.cuda)
    library = folder / "allocator_loop.so"
    folders = [*include_paths(), *map(str, cuda.include_dirs)]
    command = [os.environ.get("CXX", "g++"), "-O2", "-std=c++20", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
    command += [flag for name in folders for flag in ("-isystem", name)]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [f"-L{name}" for name in library_paths()] + ["-lc10_cuda", "-lc10"]
    subprocess.run(command, check=True)
    return library


def load(library: Path) -> tuple[Callable[[int, int], float], Callable[[], None]]:
    """((bytes, count) -> ns a pair, attach a tracker that does nothing)."""
    loaded = ctypes.CDLL(str(library))
    loop = loaded.allocator_loop
    loop.argtypes, loop.restype = [ctypes.c_size_t, ctypes.c_long], ctypes.c_double

    def measure(size: int, count: int) -> float:
        spent = loop(size, count)
        if spent < 0:
            raise RuntimeError("the caching allocator refused to allocate")
        return spent

    return measure, loaded.attach_empty_tracker
