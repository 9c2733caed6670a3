"""What one scope, one collective and one allocator event cost on this machine, host side, in ns.

Recorded and paused batches take turns, and the quickest of each are compared: what disturbs a batch only makes it
longer. All together takes a second or two. benchmarks/ measures the same with bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

import wanhook

_ROUNDS = 20
_SCOPES, _TENSORS, _CALLS = 300, 500, 50
_EVENTS_A_TENSOR = 2  # its allocation and its free


def measure(device: torch.device) -> tuple[dict[str, float | None], dict[str, str]]:
    """(ns by name, None: lost in noise; what failed by name), inside a recording."""
    figures: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, measured in (("scope", _scope), ("allocator_event", _allocator_event), ("collective", _collective)):
        try:
            figures[name] = measured(device)
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return figures, reasons


def _scope(device: torch.device) -> float | None:
    """A scope of the level op; on a GPU with its two event records."""

    def run() -> None:
        for _ in range(_SCOPES):
            with wanhook.trace("scope", level="op"):
                pass

    return _difference(run, device, _SCOPES)


def _allocator_event(device: torch.device) -> float | None:
    torch.empty(1024, device=device)

    def run() -> None:
        for _ in range(_TENSORS):
            torch.empty(1024, device=device)

    return _difference(run, device, _TENSORS * _EVENTS_A_TENSOR)


def _collective(device: torch.device) -> float | None:
    """A synchronous all_reduce in a group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        tensor = torch.ones(1024, device=device)
        dist.all_reduce(tensor)

        def run() -> None:
            for _ in range(_CALLS):
                dist.all_reduce(tensor)

        return _difference(run, device, _CALLS)
    finally:
        dist.destroy_process_group()


def _difference(run: Callable[[], None], device: torch.device, count: int) -> float | None:
    """ns by which a batch of `count` is longer when it is recorded, for each; None where that is below 1: a cost of
    0 would be false, when it is only smaller than what this machine lets us see."""
    recorded, paused = [], []
    for _ in range(_ROUNDS):
        recorded.append(_timed(run, device))
        wanhook.pause()
        try:
            paused.append(_timed(run, device))
        finally:
            wanhook.resume()
    each = (min(recorded) - min(paused)) / count
    return each if each >= 1 else None


def _timed(run: Callable[[], None], device: torch.device) -> int:
    begin = time.perf_counter_ns()
    run()
    spent = time.perf_counter_ns() - begin
    if device.type == "cuda":
        torch.cuda.synchronize()
        time.sleep(0.01)  # the resolver gives the event pairs back
    return spent
