"""What the windows in which NCCL's kernels were recorded held, and what of it found its collective."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.ranks import rank_of
from wanhook.tracefile.format import CollectiveFlags
from wanhook.tracefile.names import section, whole

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class KernelWindow:
    """The window of one trace file: the `instance`-th scope called `scope`. Times in ns.

    `kernels` are NCCL's, `unmatched` those among them that belong to no recorded call (a graph's replay, a library that
    calls NCCL itself). `calls` are the collectives that began on a GPU in the window, `without_kernel` those among them
    that have none. `gpu_finished` is False where kernels that were still running are missing. `opening_ns` and
    `closing_ns` are what the program waited for before and after the scope.
    """

    rank: int
    scope: str
    instance: int
    lasted_ns: int
    kernels: int
    unmatched: int
    calls: int
    without_kernel: int
    gpu_finished: bool
    opening_ns: int
    closing_ns: int


def kernel_windows(traces: Iterable[Trace]) -> list[KernelWindow]:
    """One value for each trace that has a window, in the order of the traces."""
    return [_window(trace, section(trace.meta, "kernel_window")) for trace in traces if "kernel_window" in trace.meta]


def _window(trace: Trace, about: dict) -> KernelWindow:
    name = about.get("name")
    begin, end = (whole(about.get(key)) or 0 for key in ("begin", "end"))
    bounds = trace.clock.from_realtime(np.array([begin, end]))
    calls = trace.collectives
    inside = (calls["begin"] >= bounds[0]) & (calls["begin"] <= bounds[1]) & (calls["device"] >= 0)
    inside &= (calls["flags"] & CollectiveFlags.CAPTURED) == 0
    return KernelWindow(
        rank=rank_of(trace),
        scope=name if isinstance(name, str) else "",
        instance=whole(about.get("instance")) or 0,
        lasted_ns=max(end - begin, 0),
        kernels=len(trace.kernels),
        unmatched=int((trace.kernels["collective"] == 0).sum()),
        calls=int(inside.sum()),
        without_kernel=int((inside & (calls["kernels"] == 0)).sum()),
        gpu_finished=about.get("gpu_finished") is True,
        opening_ns=whole(about.get("opening")) or 0,
        closing_ns=whole(about.get("closing")) or 0,
    )
