"""What an allocator entry costs: `python -m benchmarks.allocator_cost [--quick]`.

One alloc and free of a 1 MiB tensor from Python, bare, with the gate closed, recorded, and under torch's own memory
history and profiler. On a GPU that is three entries of the allocator's trace, on the CPU two records of ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from .rounds import Variant, figure, interleave, paired, unpaired
from .unit_report import Table, arguments, finish, rounds_of

BYTES = 1 << 20
BUDGET = 40.0  # ns an entry, recorded
WARM_UP_SECONDS = 1.0
TWIN = "--as-bare-twin"


def pair_nanoseconds(device: str, count: int) -> float:
    """ns of one alloc and free, over ``count`` of them."""
    empty, kind = torch.empty, torch.uint8
    begin = time.perf_counter_ns()
    for _ in range(count):
        empty(BYTES, dtype=kind, device=device)
    return (time.perf_counter_ns() - begin) / count


class BareTwin:
    """Another process, to which nothing was ever attached, that can be measured in turn with this one."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.allocator_cost", TWIN]
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
    def serve(device: str) -> None:
        """The other side: answers each count on stdin with ns a pair, until stdin ends."""
        warm_up(device)
        for line in sys.stdin:
            print(pair_nanoseconds(device, int(line)), flush=True)


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


def measure_all(device: str, rounds: int, count: int, folder: Path, twin: BareTwin) -> tuple[dict, dict, dict]:
    """(bare; gate, recorded and histories; gate, recorded and profiler), each ns a pair by variant and round."""
    measure = partial(pair_nanoseconds, device, count)
    warm_up(device)
    bare = interleave([Variant("bare", measure)], rounds)
    import wanhook

    # What is attached stays attached, so the bare process cannot be measured in turn with the others.
    wanhook.start(folder / "recording")
    wanhook.pause()
    common = [
        Variant("gate closed", measure),
        Variant("recorded", measure, recording),
        Variant("bare, process beside", partial(twin.measure, count)),
    ]
    with_histories = interleave(common + (histories(measure) if device == "cuda" else []), rounds)
    short = partial(pair_nanoseconds, device, max(count // 10, 100))
    with_profiler = interleave(
        [
            Variant("gate closed", short),
            Variant("recorded", short, recording),
            Variant("torch.profiler", short, profiler),
        ],
        max(rounds // 2, 3),
    )
    wanhook.stop(wait=10)
    return bare, with_histories, with_profiler


def tables(device: str, entries: int, bare: dict, history: dict, profiled: dict) -> list[Table]:
    pairs = Table(f"alloc + free of {BYTES >> 20} MiB on {device}, from Python: ns a pair")
    for name, values in {**bare, **history, "torch.profiler": profiled["torch.profiler"]}.items():
        pairs.add(name, figure(values))
    costs = Table(f"cost of one entry ({entries} a pair), ns")
    costs.add("gate closed, over bare", unpaired(history["gate closed"], bare["bare"], entries))
    costs.add("recorded, over bare", unpaired(history["recorded"], bare["bare"], entries), BUDGET)
    beside = history["bare, process beside"]
    costs.add("recorded, over a bare process beside", paired(history["recorded"], beside, entries))
    costs.add("recorded, over gate closed", paired(history["recorded"], history["gate closed"], entries))
    for name in history:
        if name.startswith("memory history"):
            costs.add(f"{name}, over gate closed", paired(history[name], history["gate closed"], entries))
    costs.add("torch.profiler, over gate closed", paired(profiled["torch.profiler"], profiled["gate closed"], entries))
    costs.notes.append("bare was measured first, in rounds of its own: what is attached stays attached")
    return [pairs, costs]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if TWIN in sys.argv:
        return BareTwin.serve(device)
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    folder, twin = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir)), BareTwin()
    try:
        measured = measure_all(device, rounds_of(chosen), 1_000 if chosen.quick else 20_000, folder, twin)
    finally:
        twin.close()
        shutil.rmtree(folder, ignore_errors=True)
    return finish(tables(device, 3 if device == "cuda" else 2, *measured), chosen.out)


if __name__ == "__main__":
    main()
