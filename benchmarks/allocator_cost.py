"""What an allocator entry costs: `python -m benchmarks.allocator_cost [--quick]`.

One alloc and free of 1 MiB, from Python and (on a GPU) from C++. With the gate closed, recorded, and under torch's own
memory history and profiler these take turns in one process. Bare cannot: what is attached to a process stays attached,
and two processes differ by more than an entry costs. So each of many processes is measured bare, bare again after a
while, and then attached; what bare again differs by is what this comparison cannot tell. On a GPU a pair is three
entries of the allocator's trace, on the CPU two records of ours.
"""

from __future__ import annotations

import gc
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
from .processes import in_new_processes
from .rounds import Variant, figure, interleave, medians, paired, stacked
from .scope_cost import recording
from .unit_report import Table, arguments, finish, rounds_of

BYTES = 1 << 20
BUDGET = 40.0  # ns an entry, recorded
WARM_UP_SECONDS = 0.5
LEAD_IN_SECONDS = 0.02  # of the same work before what is measured: what ran in between left its caches cold
STRETCHES = 8  # of each variant in a process that is attached to; their median counts
BARE, AGAIN, EMPTY, CLOSED, RECORDED = "bare", "bare again", "empty tracker", "gate closed", "recorded"
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
    gc.collect()
    gc.freeze()  # each measurement collects garbage first, and torch's own objects take most of that time
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
        import wanhook

        wanhook.start(folder)
        wanhook.pause()
        add((CLOSED,), (RECORDED, recording))
        wanhook.stop(wait=10)
    return found


@dataclass
class Measured:
    """ns a pair by variant, float64[rounds or processes]: in one process, in rounds beside a profiler, in processes
    that wanhook or an empty tracker was attached to (none without a GPU)."""

    pairs: dict[str, np.ndarray]
    profiled: dict[str, np.ndarray]
    ours: dict[str, np.ndarray]
    empty: dict[str, np.ndarray]


def measure_all(device: str, rounds: int, count: int, folder: Path) -> dict[str, Measured]:
    """By where the loop is written."""
    library = native_loop.build(folder) if device == "cuda" else None
    short = max(count // 10, 100)

    def apart(attaching: str) -> dict[str, dict[str, np.ndarray]]:
        jobs = [(device, library, attaching, short, folder / f"{attaching} {number}") for number in range(rounds)]
        each = [in_new_processes(attached, *job) for job in jobs]
        return {where: stacked([one[where] for one in each]) for where in each[0]}

    ours, empty = apart(CLOSED), apart(EMPTY) if library else {}
    warm_up(device)
    import wanhook

    wanhook.start(folder / "recording")
    wanhook.pause()
    found = {}
    for where, loop in loops(device, library).items():
        measure, brief = (partial(after_lead_in, loop, each) for each in (count, short))
        variants = [Variant(CLOSED, measure), Variant(RECORDED, measure, recording)]
        pairs = interleave(variants + (histories(measure) if device == "cuda" else []), rounds)
        profiled = interleave([Variant(CLOSED, brief), Variant("on", brief, profiler)], 5)
        found[where] = Measured(pairs, profiled, ours[where], empty.get(where, {}))
    wanhook.stop(wait=10)
    return found


def tables(device: str, entries: int, where: str, measured: Measured) -> list[Table]:
    found, gate = measured.pairs, measured.pairs[CLOSED]
    pair = f"alloc + free of {BYTES >> 20} MiB on {device}, {where}: ns a pair"
    turns, costs = Table(pair), Table(f"cost of one entry ({entries} a pair), {where}, ns")
    for name, values in {**found, "torch.profiler": measured.profiled["on"]}.items():
        turns.add(name, figure(values))
    apart = Table(f"{pair}, in processes of their own")
    for name, values in {**measured.ours, **measured.empty}.items():
        apart.add(name, figure(values))

    costs.add("recorded, over gate closed", paired(found[RECORDED], gate, entries))
    for name in found:
        if name.startswith("memory history"):
            costs.add(f"{name}, over gate closed", paired(found[name], gate, entries))
    profiled = measured.profiled
    costs.add("torch.profiler, over gate closed", paired(profiled["on"], profiled[CLOSED], entries))
    beside = measured.ours
    costs.add("bare again, over bare", paired(beside[AGAIN], beside[BARE], entries))
    if measured.empty:
        costs.add("empty tracker, over bare", paired(measured.empty[EMPTY], measured.empty[AGAIN], entries))
    costs.add("gate closed, over bare", paired(beside[CLOSED], beside[AGAIN], entries))
    costs.add("recorded, over bare", paired(beside[RECORDED], beside[AGAIN], entries), BUDGET)
    costs.notes.append(
        "over bare: differences within processes of their own, measured bare first; the others take turns"
    )
    return [turns, apart, costs]


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
