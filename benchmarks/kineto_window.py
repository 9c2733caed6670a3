"""One window of Kineto: CUPTI's records of what ran on the GPU, as rows and as a file.

torch's profiler is used at its lowest level. `torch.profiler.profile(acc_events=True)` would build torch's own event
tree when it ends, which takes minutes for 100 000 kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

Row = tuple[str, int, int, int]  # name, stream, start and end in ns since the Unix epoch
# Annotations lie over the kernels of a stream and are none; on a GPU's timeline they would close its gaps.
_ANNOTATIONS = ("nccl:", "FullyShardedDataParallel", "FSDP::", "DistributedDataParallel", "ProfilerStep", "c10d::")


class CudaWindow:
    """From begin() to end() on one thread. `rows` are the GPU's activities: kernels, copies, memsets; no order."""

    def __init__(self):
        self.rows: list[Row] = []
        self._profile = None

    def begin(self) -> None:
        """Raises where the profiler cannot be had, as without a GPU."""
        from torch.autograd.profiler import profile

        self._profile = profile(use_device="cuda", use_cpu=False, use_kineto=True)
        self._profile.__enter__()

    def end(self) -> None:
        """Waits for the GPU."""
        self._profile.__exit__(None, None, None)
        self.rows = _activities(self._profile.kineto_results.events())
        self._profile = None

    def __enter__(self) -> CudaWindow:
        self.begin()
        return self

    def __exit__(self, *_exception) -> None:
        self.end()


def _activities(events) -> list[Row]:
    from torch.autograd import DeviceType

    return [
        (event.name(), event.device_resource_id(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == DeviceType.CUDA and event.duration_ns() > 0
        and not event.is_user_annotation() and not event.name().startswith(_ANNOTATIONS)
    ]  # fmt: skip


def warm_up() -> None:
    """What CUPTI does once in a process, and at its first launch: a second or more."""
    import torch

    with CudaWindow():
        torch.cuda._sleep(1000)
        torch.cuda.synchronize()


def save(path: Path, rows: Sequence[tuple[int, str, int, int, int]]) -> None:
    """Write (window's number, *Row) each as `kineto_match.Kernels` reads it; none at all is a file too."""
    sessions, names, streams, starts, ends = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    known = sorted(set(names))
    number = {name: at for at, name in enumerate(known)}
    columns = {"session": sessions, "stream": streams, "start": starts, "end": ends}
    arrays = {key: np.array(values, np.int64) for key, values in columns.items()}
    texts = np.array(known) if known else np.array([], "U1")
    np.savez_compressed(path, names=texts, name=np.array([number[name] for name in names], np.int64), **arrays)
