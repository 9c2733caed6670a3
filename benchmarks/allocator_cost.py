"""What an allocator entry costs: `python -m benchmarks.allocator_cost [--quick]`.

One alloc and free of 1 MiB, from Python and (on a GPU) from C++, with the gate closed, recorded, and under torch's own
memory history and profiler; and bare, in a process beside, since what is attached to a process stays attached. All take
turns. On a GPU a pair is three entries of the allocator's trace, on the CPU two records of ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from . import native_loop
from .rounds import Variant, figure, interleave, paired
from .unit_report import Table, arguments, finish, rounds_of

BYTES = 1 << 20
BUDGET = 40.0  # ns an entry, recorded
WARM_UP_SECONDS = 1.0
LEAD_IN_SECONDS = 0.02  # of the same work before what is measured: a process that waited for its turn begins slower
TWIN = "--as-twin"
BARE, EMPTY = "bare", "empty tracker"


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


class Twin:
    """Another process, to which nothing of ours was ever attached, that can be measured in turn with this one.
    ``library``: of the loop in C++, without which it is Python's; ``empty`` attaches a tracker that does nothing."""

    def __init__(self, library: Path | None = None, *, empty: bool = False) -> None:
        command = [sys.executable, "-m", "benchmarks.allocator_cost", TWIN]
        if library:
            command += [str(library), EMPTY if empty else BARE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, count: int) -> float:
        """ns a pair over there. EOFError when the process is gone."""
        answer = ""
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise EOFError("the process beside ended early")
        return float(answer)

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def serve(device: str, library: str = "", kind: str = BARE) -> None:
        """The other side: answers each count on stdin with ns a pair, until stdin ends."""
        warm_up(device)
        measure = partial(pair_nanoseconds, device)
        if library:
            loop, attach_empty_tracker = native_loop.load(Path(library))
            if kind == EMPTY:
                attach_empty_tracker()
            measure = partial(loop, BYTES)
        for line in sys.stdin:
            print(after_lead_in(measure, int(line)), flush=True)


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
    """ns a pair by variant and round (float64[rounds]); those beside a profiler in rounds of their own."""

    pairs: dict[str, np.ndarray]
    profiled: dict[str, np.ndarray]


def measure_all(device: str, rounds: int, count: int, folder: Path) -> dict[str, Measured]:
    """By where the loop is written. Python's holds what a tensor costs besides, and so more noise; C++'s is the
    allocator alone, its caches warm."""
    loops: dict[str, Callable[[int], float]] = {"from Python": partial(pair_nanoseconds, device)}
    with ExitStack() as stack:

        def twin(*of, **kind) -> Twin:
            return stack.enter_context(closing(Twin(*of, **kind)))

        twins = {"from Python": {BARE: twin()}}
        if device == "cuda":
            library = native_loop.build(folder)
            loops["from C++"] = partial(native_loop.load(library)[0], BYTES)
            twins["from C++"] = {BARE: twin(library), EMPTY: twin(library, empty=True)}
        for those in twins.values():
            for each in those.values():
                each.measure(1)  # when it is ready
        warm_up(device)
        import wanhook

        wanhook.start(folder / "recording")
        wanhook.pause()
        found = {}
        for where, loop in loops.items():
            measure, short = (partial(after_lead_in, loop, each) for each in (count, max(count // 10, 100)))
            beside = [Variant(name, partial(each.measure, count)) for name, each in twins[where].items()]
            ours = [Variant("gate closed", measure), Variant("recorded", measure, recording)]
            pairs = interleave(beside + ours + (histories(measure) if device == "cuda" else []), rounds)
            profiled = interleave([Variant("gate closed", short), Variant("on", short, profiler)], 5)
            found[where] = Measured(pairs, profiled)
        wanhook.stop(wait=10)
    return found


def tables(device: str, entries: int, where: str, measured: Measured) -> list[Table]:
    found, gate = measured.pairs, measured.pairs["gate closed"]
    pairs = Table(f"alloc + free of {BYTES >> 20} MiB on {device}, {where}: ns a pair")
    for name, values in {**found, "torch.profiler": measured.profiled["on"]}.items():
        pairs.add(name, figure(values))
    costs = Table(f"cost of one entry ({entries} a pair), {where}, ns")
    costs.add("gate closed, over bare", paired(gate, found[BARE], entries))
    costs.add("recorded, over bare", paired(found["recorded"], found[BARE], entries), BUDGET)
    if EMPTY in found:
        costs.add(f"{EMPTY}, over bare", paired(found[EMPTY], found[BARE], entries))
    costs.add("recorded, over gate closed", paired(found["recorded"], gate, entries))
    for name in found:
        if name.startswith("memory history"):
            costs.add(f"{name}, over gate closed", paired(found[name], gate, entries))
    profiled = measured.profiled
    costs.add("torch.profiler, over gate closed", paired(profiled["on"], profiled["gate closed"], entries))
    costs.notes.append("what is bare, or has an empty tracker, is a process beside, measured in turn")
    return [pairs, costs]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if TWIN in sys.argv:
        return Twin.serve(device, *sys.argv[sys.argv.index(TWIN) + 1 :])
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="wanhook-bench-", dir=chosen.dir) as folder:
        measured = measure_all(device, rounds_of(chosen), 1_000 if chosen.quick else 20_000, Path(folder))
    entries = 3 if device == "cuda" else 2
    return finish(
        [table for where, each in measured.items() for table in tables(device, entries, where, each)], chosen.out
    )


if __name__ == "__main__":
    main()
