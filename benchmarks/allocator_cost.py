"""What an allocator entry costs: `python -m benchmarks.allocator_cost [--quick]`.

One alloc and free of 1 MiB, from Python and (on a GPU) from C++, bare, with the gate closed, recorded, and under
torch's own memory history and profiler. On a GPU that is three entries of the allocator's trace, on the CPU two records
of ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
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
from .rounds import Variant, figure, interleave, paired, unpaired
from .unit_report import Table, arguments, finish, rounds_of

BYTES = 1 << 20
BUDGET = 40.0  # ns an entry, recorded
WARM_UP_SECONDS = 1.0
TWIN = "--as-bare-twin"
BARE, EMPTY = "bare, process beside", "empty tracker, process beside"


def pair_nanoseconds(device: str, count: int) -> float:
    """ns of one alloc and free, over ``count`` of them."""
    empty, kind = torch.empty, torch.uint8
    begin = time.perf_counter_ns()
    for _ in range(count):
        empty(BYTES, dtype=kind, device=device)
    return (time.perf_counter_ns() - begin) / count


class BareTwin:
    """Another process, to which nothing of ours was ever attached, that can be measured in turn with this one; with a
    folder to build in, one with an empty tracker and the loop in C++."""

    def __init__(self, *folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.allocator_cost", TWIN, *map(str, folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, count: int) -> float:
        """ns a pair over there. EOFError when the process is gone."""
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise EOFError("the bare process ended early")
        return float(answer)

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    @staticmethod
    def serve(device: str, *folder: str) -> None:
        """The other side: answers each count on stdin with ns a pair, until stdin ends."""
        warm_up(device)
        measure = partial(pair_nanoseconds, device)
        if folder:
            loop, attach_empty_tracker = native_loop.build(Path(folder[0]))
            attach_empty_tracker()
            measure = partial(loop, BYTES)
        for line in sys.stdin:
            print(measure(int(line)), flush=True)


def warm_up(device: str) -> None:
    until = time.monotonic() + WARM_UP_SECONDS
    while time.monotonic() < until:
        pair_nanoseconds(device, 1_000)


@contextmanager
def recording() -> Iterator[None]:
    """Opens the gate of the recording that runs."""
    import wanhook

    wanhook.resume()
    try:
        yield
    finally:
        wanhook.pause()


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


@dataclass
class Measured:
    """ns a pair by variant and round (float64[rounds]): before anything was attached, afterwards, beside a profiler."""

    bare: np.ndarray
    attached: dict[str, np.ndarray]
    profiled: dict[str, np.ndarray]


def measure_all(
    device: str, rounds: int, count: int, folder: Path, twins: dict[str, tuple[str, BareTwin]]
) -> dict[str, Measured]:
    """By where the loop is written. Python's holds what a tensor costs besides, and so more noise; C++'s is the
    allocator alone, its caches warm."""
    loops: dict[str, Callable[[int], float]] = {"from Python": partial(pair_nanoseconds, device)}
    if device == "cuda":
        loops["from C++"] = partial(native_loop.build(folder)[0], BYTES)
    warm_up(device)
    bare = interleave([Variant(where, partial(loop, count)) for where, loop in loops.items()], rounds)
    import wanhook

    # What is attached stays attached, so the bare process cannot be measured in turn with the others.
    wanhook.start(folder / "recording")
    wanhook.pause()
    found = {}
    for where, loop in loops.items():
        measure, short = partial(loop, count), partial(loop, max(count // 10, 100))
        common = [Variant("gate closed", measure), Variant("recorded", measure, recording)]
        if where in twins:
            name, twin = twins[where]
            common.append(Variant(name, partial(twin.measure, count)))
        attached = interleave(common + (histories(measure) if device == "cuda" else []), rounds)
        found[where] = Measured(bare[where], attached, {})
        found[where].profiled = interleave([Variant("gate closed", short), Variant("on", short, profiler)], 5)
    wanhook.stop(wait=10)
    return found


def tables(device: str, entries: int, where: str, measured: Measured) -> list[Table]:
    attached, gate = measured.attached, measured.attached["gate closed"]
    pairs = Table(f"alloc + free of {BYTES >> 20} MiB on {device}, {where}: ns a pair")
    for name, values in {"bare": measured.bare, **attached, "torch.profiler": measured.profiled["on"]}.items():
        pairs.add(name, figure(values))
    costs = Table(f"cost of one entry ({entries} a pair), {where}, ns")
    costs.add("gate closed, over bare", unpaired(gate, measured.bare, entries))
    costs.add("recorded, over bare", unpaired(attached["recorded"], measured.bare, entries), BUDGET)
    if BARE in attached:
        costs.add("recorded, over a bare process beside", paired(attached["recorded"], attached[BARE], entries))
    if EMPTY in attached:
        costs.add(f"{EMPTY}, over bare", unpaired(attached[EMPTY], measured.bare, entries))
    costs.add("recorded, over gate closed", paired(attached["recorded"], gate, entries))
    for name in attached:
        if name.startswith("memory history"):
            costs.add(f"{name}, over gate closed", paired(attached[name], gate, entries))
    profiled = measured.profiled
    costs.add("torch.profiler, over gate closed", paired(profiled["on"], profiled["gate closed"], entries))
    costs.notes.append("bare was measured first, in rounds of its own: what is attached stays attached")
    return [pairs, costs]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if TWIN in sys.argv:
        return BareTwin.serve(device, *sys.argv[sys.argv.index(TWIN) + 1 :])
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir))
    twins = {"from Python": (BARE, BareTwin())}
    if device == "cuda":
        (folder / "twin").mkdir()
        twins["from C++"] = (EMPTY, BareTwin(folder / "twin"))
    try:
        measured = measure_all(device, rounds_of(chosen), 1_000 if chosen.quick else 20_000, folder, twins)
    finally:
        for _, twin in twins.values():
            twin.close()
        shutil.rmtree(folder, ignore_errors=True)
    entries = 3 if device == "cuda" else 2
    return finish(
        [table for where, each in measured.items() for table in tables(device, entries, where, each)], chosen.out
    )


if __name__ == "__main__":
    main()
