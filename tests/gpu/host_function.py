"""A Python function on a stream (cudaLaunchHostFunc): the stream stands still until it returns.

It runs on a thread of the driver's, which needs the GIL for it.
"""

import ctypes
import threading
import time
from collections.abc import Callable

import torch

from gpu.cuda_errors import cuda_runtime


class HostFunction:
    """`begun` is set when it runs; `returned`: when that was over, CLOCK_MONOTONIC in seconds, 0 before. To be kept as
    long as the driver may call it."""

    def __init__(self, work: Callable[[], object]):
        self.begun, self.returned = threading.Event(), 0.0
        self._work = work
        self._pointer = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._run)

    def launch(self) -> None:
        """Onto the current stream."""
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        assert cuda_runtime().cudaLaunchHostFunc(stream, self._pointer, None) == 0

    def _run(self, _) -> None:
        self.begun.set()
        self._work()
        self.returned = time.monotonic()
