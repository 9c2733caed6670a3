"""What an allocator entry costs: `python -m benchmarks.allocator_cost [--quick]`.

One alloc and free of 1 MiB, from Python and (on a GPU) from C++. With the gate closed, recorded, and under torch's own
memory history and profiler these take turns in one process; over bare it is told in many processes (`attaching`). On a
GPU a pair is three entries of the allocator's trace, on the CPU two records of ours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from . import native_loop
from .attaching import AGAIN, BARE, CLOSED, RECORDED, STRETCHES, leave_out_of_garbage, paused_recording, table_over_bare
from .processes import in_new_processes
from .rounds import Variant, figure, interleave, medians, paired, stacked
from .scope_cost import recording
from .unit_report import Table, arguments, finish, rounds_of

BYTES = 1 << 20
BUDGET = 40.0  # ns an entry, recorded
WARM_UP_SECONDS = 0.5
LEAD_IN_SECONDS = 0.02  # of the same work before what is measured: what ran in between left its caches cold
EMPTY = "empty tracker"
PYTHON, NATIVE = "from Python", "from C++"


def pair_nanoseconds(device: str, count: int) -> float:
    """ns of one alloc and free, over ``count`` of them."""
    empty, kind = torch.empty, torch.uint8
    begin = time.perf_counter_ns()
    for _ in range(count):
        empty(BYTES, dtype=kind, device=device)
    return (time.perf_counter_ns() - begin) / count


def after_lead_in(measure: Callable[[int], float], count: int) -> float:
    until = time.monotonic() + LEAD_IN_SECONDS
    while time.monotonic() < until:
        measure(max(count // 20, 1))
    return measure(count)


def loops(device: str, library: Path | None) -> dict[str, Callable[[int], float]]:
    """Count of pairs -> ns a pair, by where the loop is written. Python's holds what a tensor costs besides, and so
    more noise; C++'s, of ``library``, is the allocator alone, its caches warm."""
    found = {PYTHON: partial(pair_nanoseconds, device)}
    return found | {NATIVE: partial(native_loop.load(library)[0], BYTES)} if library else found


def warm_up(device: str) -> None:
    leave_out_of_garbage()
    until = time.monotonic() + WARM_UP_SECONDS
    while time.monotonic() < until:
        pair_nanoseconds(device, 1_000)


@contextmanager
def memory_history(context: str | None, stacks: str) -> Iterator[None]:
    record = torch.cuda.memory._record_memory_history
    record(enabled="all", context=context, stacks=stacks, max_entries=100_000)
    try:
        yield
    finally:
        record(enabled=None)


@contextmanager
def profiler() -> Iterator[None]:
    """CPU activities alone: CUPTI would leave the process slower for good."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True):
        yield


def histories(measure) -> list[Variant]:
    asked = {
        "memory history, no context": (None, "python"),
        "memory history, Python stacks": ("all", "python"),
        "memory history, C++ stacks": ("all", "all"),
    }
    return [Variant(name, measure, partial(memory_history, *how)) for name, how in asked.items()]


def attached(
    _rank: int, device: str, library: Path | None, attaching: str, count: int, folder: Path
) -> dict[str, dict]:
    """ns a pair by where and variant, in this process, to which nothing was attached before. ``attaching``: EMPTY, a
    tracker that does nothing, or CLOSED, wanhook."""
    warm_up(device)
    found: dict[str, dict[str, float]] = {where: {} for where in loops(device, library)}

    def add(*variants: tuple) -> None:
        for where, loop in loops(device, library).items():
            measure = partial(after_lead_in, loop, count)
            found[where] |= medians([Variant(name, measure, *around) for name, *around in variants], STRETCHES)

    add((BARE,))
    add((AGAIN,))
    if attaching == EMPTY:
        native_loop.load(library)[1]()
        add((EMPTY,))
    else:
        with paused_recording(folder):
            add((CLOSED,), (RECORDED, recording))
    return found


@dataclass
class Measured:
    """ns a pair by variant: in one process, in rounds beside a profiler (float64[rounds]), and by what was attached, in
    processes of their own (float64[processes])."""

    pairs: dict[str, np.ndarray]
    profiled: dict[str, np.ndarray]
    apart: dict[str, dict[str, np.ndarray]]


def measure_all(device: str, rounds: int, count: int, folder: Path) -> dict[str, Measured]:
    """By where the loop is written."""
    library = native_loop.build(folder) if device == "cuda" else None
    short = max(count // 10, 100)
    kinds = (CLOSED, EMPTY) if library else (CLOSED,)
    apart: dict[str, list] = {kind: [] for kind in kinds}
    for number in range(rounds):  # the kinds by turns, so that they can be compared
        for kind in kinds:
            job = (device, library, kind, short, folder / f"{kind} {number}")
            apart[kind].append(in_new_processes(attached, *job))
    warm_up(device)
    found = {}
    with paused_recording(folder / "recording"):
        for where, loop in loops(device, library).items():
            measure, brief = (partial(after_lead_in, loop, each) for each in (count, short))
            variants = [Variant(CLOSED, measure), Variant(RECORDED, measure, recording)]
            pairs = interleave(variants + (histories(measure) if device == "cuda" else []), rounds)
            profiled = interleave([Variant(CLOSED, brief), Variant("on", brief, profiler)], 5)
            of_kinds = {kind: stacked([each[where] for each in apart[kind]]) for kind in kinds}
            found[where] = Measured(pairs, profiled, of_kinds)
    return found


def tables(device: str, entries: int, where: str, measured: Measured) -> list[Table]:
    found, gate = measured.pairs, measured.pairs[CLOSED]
    pair = f"alloc + free of {BYTES >> 20} MiB on {device}, {where}"
    turns, costs = Table(f"{pair}: ns a pair"), Table(f"cost of one entry ({entries} a pair), {where}, ns")
    for name, values in {**found, "torch.profiler": measured.profiled["on"]}.items():
        turns.add(name, figure(values))
    costs.add("recorded, over gate closed", paired(found[RECORDED], gate, entries))
    for name in found:
        if name.startswith("memory history"):
            costs.add(f"{name}, over gate closed", paired(found[name], gate, entries))
    profiled = measured.profiled
    costs.add("torch.profiler, over gate closed", paired(profiled["on"], profiled[CLOSED], entries))
    beside = [
        table_over_bare(f"{pair}, {entries} entries: {'wanhook' if kind == CLOSED else kind}", found, entries, BUDGET)
        for kind, found in measured.apart.items()
    ]
    return [turns, costs, *beside]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="wanhook-bench-", dir=chosen.dir) as folder:
        measured = measure_all(device, rounds_of(chosen), 1_000 if chosen.quick else 20_000, Path(folder))
    entries = 3 if device == "cuda" else 2
    return finish(
        [table for where, each in measured.items() for table in tables(device, entries, where, each)], chosen.out
    )


if __name__ == "__main__":
    main()
