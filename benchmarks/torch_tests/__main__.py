"""PyTorch's own distributed tests, without and with WANHOOK=1: `python -m benchmarks.torch_tests --out DIR`.

A list names test programs, as cpu.txt and gpu.txt beside this module do: `wheel:gloo` and `wheel:nccl` are those that
ship in torch's wheel, others are files below --tests, the folder `test` of a checkout of PyTorch. Each runs without and
then with WANHOOK=1, and a test with two outcomes again by itself. What is known is written to DIR after each program.
Needs what torch's tests need: expecttest. Exit code 1: an outcome differs and is not flaky, nothing was recorded, or
fewer tests ran than --least.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import queue
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .. import machine
from . import programs, report
from .comparison import Comparison, compare, from_json

_HERE = Path(__file__).parent


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_tests", description=__doc__.splitlines()[0])
    parser.add_argument("--list", type=Path, default=_HERE / "cpu.txt", help="test programs, one a line")
    parser.add_argument("--tests", type=Path, help="the folder `test` of a checkout of PyTorch")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and results.md")
    parser.add_argument("--scratch", type=Path, help="folder for what tests write (scratch/ in --out)")
    parser.add_argument("--gpus", nargs="*", default=[], help="GPUs of a program, as 0,1; more than one set in turn")
    parser.add_argument("--jobs", type=int, help="programs at a time (one a set of GPUs)")
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a program may take under one variant")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which none is begun")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="results.json to add to and not run again")
    parser.add_argument("--least", type=int, default=1, help="tests that must have run")
    return parser.parse_args()


class Ledger:
    """All results so far, on disk after each. Used by several threads."""

    def __init__(self, out: Path, wanted: list[programs.Program], earlier: list[Path]):
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._lock = out, threading.Lock()
        self._runs, self.comparisons = [], []
        for values in (json.loads(path.read_text()) for path in earlier):
            self._runs += values["runs"]
            self.comparisons += map(from_json, values["comparisons"])
        known = {found.program for found in self.comparisons}
        self.waiting = [program for program in wanted if program not in known]
        if self.waiting:
            command = " ".join(["python -m benchmarks.torch_tests", *map(_without_folders, sys.argv[1:])])
            self._runs.append({"command": command, "machine": machine.describe()})
        self._write()

    def add(self, found: Comparison) -> None:
        with self._lock:
            self.comparisons.append(found)
            self.waiting.remove(found.program)
            self._write()

    def _write(self) -> None:
        self.comparisons.sort(key=lambda found: (found.program.name, found.program.shard))
        values = {"runs": self._runs, "waiting": [str(program) for program in self.waiting]}
        values["comparisons"] = [report.as_json(found) for found in self.comparisons]
        (self._out / "results.json").write_text(json.dumps(values, indent=1))
        (self._out / "results.md").write_text(self.text())

    def text(self) -> str:
        return report.render(self._runs, self.comparisons, map(str, self.waiting))


def run_all(chosen: argparse.Namespace, ledger: Ledger) -> None:
    place = programs.Place(chosen.tests, (chosen.scratch or chosen.out / "scratch").resolve(), chosen.limit)
    jobs = chosen.jobs or len(chosen.gpus) or 1
    slots: queue.SimpleQueue = queue.SimpleQueue()
    for number in range(jobs):
        slots.put(chosen.gpus[number % len(chosen.gpus)] if chosen.gpus else None)
    began = time.monotonic()

    def one(program: programs.Program) -> None:
        if time.monotonic() - began > chosen.deadline:
            return
        gpus = slots.get()
        try:
            found = compare(program, functools.partial(programs.run, place=place, gpus=gpus))
        finally:
            slots.put(gpus)
        ledger.add(found)
        print(f"{time.monotonic() - began:6.0f} s  {_line(found)}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(one, program) for program in list(ledger.waiting)]):
            done.result()


def _line(found: Comparison) -> str:
    ran, complaints = len(found.compared()), found.complaints()
    told = "; ".join(complaints) if complaints else f"{len(found.traces.with_collectives)} with recorded collectives"
    return f"{found.program}: {ran} tests run, {len(found.differences)} differ, {told}"


def _without_folders(word: str) -> str:
    """Results are kept, and where a machine had its files is of no use to anybody."""
    return Path(word).name if word.startswith("/") else word


def _leave(number: int, _frame) -> None:
    """What is done is on disk; what runs must not outlive this process."""
    programs.end_all()
    os._exit(128 + number)


def main() -> int:
    chosen = parse()
    wanted = programs.read_list(chosen.list.read_text())
    ledger = Ledger(chosen.out, wanted, chosen.earlier)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    run_all(chosen, ledger)
    print(ledger.text())
    ran = sum(len(found.compared()) for found in ledger.comparisons)
    complaints = [sentence for found in ledger.comparisons for sentence in found.complaints()]
    if ran < chosen.least:
        complaints.append(f"{ran} tests ran, and {chosen.least} were to")
    print("\n".join(complaints) or f"{ran} tests ran, and recording changed no outcome")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
