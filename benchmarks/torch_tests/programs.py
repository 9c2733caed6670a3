"""Test programs: which there are, and how one is run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..machine import ROOT
from . import outcomes, recordings
from .outcomes import RECORDED

WHEEL = "wheel"
_WHEEL_MODULE = "benchmarks.torch_tests.wheel_distributed"
_PARTS = "barrier", "test_dir", "init_dir"  # of TEMP_DIR, where the wheel's tests expect them
_PATIENCE = 10  # seconds that a program may take to end once it was told to
_running: set[subprocess.Popen] = set()


@dataclass(frozen=True)
class Program:
    """``name``: a file below the folder of tests, or ``wheel:gloo`` and ``wheel:nccl``. ``shard``: every so manieth of
    its tests, from the first number on. ``only``: a regular expression that ids must match."""

    name: str
    shard: tuple[int, int] = (0, 1)
    only: str = ""

    def __str__(self) -> str:
        return self.name if self.shard[1] == 1 else f"{self.name} ({self.shard[0] + 1}/{self.shard[1]})"

    def label(self) -> str:
        """A file name for it."""
        return f"{self.name}-{self.shard[0]}".replace("/", "_").replace(":", "_")


def read_list(text: str) -> list[Program]:
    """One program a line: its name, into how many parts it is split, and optionally a regular expression for the ids of
    its tests. Raises ValueError for a line that is none. ``#`` begins a comment line."""
    found = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(None, 2)
        if len(words) < 2 or not words[1].isdecimal() or int(words[1]) < 1:
            raise ValueError(f"{line!r} is not: PROGRAM PARTS [REGULAR EXPRESSION]")
        only = words[2].strip() if len(words) == 3 else ""
        found += [Program(words[0], (part, int(words[1])), only) for part in range(int(words[1]))]
    return found


@dataclass
class Place:
    """Where programs run. ``tests``: the folder that names of files are relative to; ``scratch``: for everything that
    a run writes; ``limit``: seconds a program may take; ``world``: ranks of the wheel's tests."""

    tests: Path | None
    scratch: Path
    limit: float
    world: int = 2


def run(program: Program, variant: str, place: Place, gpus: str | None, leave_out=(), label: str = "") -> dict:
    """Runs it once and says what became of its tests: ``outcomes``, with ``recorded`` under the variant of that name,
    and ``ended``: "itself", or why it was ended."""
    folder = place.scratch / f"{program.label()}-{variant}{label}"
    for part in _PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = folder / "lines"
    lines.touch()
    (folder / "leave-out").write_text(json.dumps(sorted(leave_out)))
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            _command(program, place, lines, folder / "leave-out"),
            env=_environment(program, variant, place, folder, gpus),
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        _running.add(process)
        ended = _wait(process, place.limit)
    found = {"outcomes": outcomes.read_lines(lines.read_text()), "ended": ended}
    if variant == RECORDED:
        found["recorded"] = recordings.count(folder / "recordings", "torch_test")
        for path in (folder / "recordings").rglob("*.wanhook"):
            path.unlink()
    return found


def _command(program: Program, place: Place, lines: Path, leave_out: Path) -> list[str]:
    what = _WHEEL_MODULE
    if not program.name.startswith(WHEEL):
        if place.tests is None:
            raise ValueError(f"{program.name} is a file: give the folder of tests (--tests)")
        what = str((place.tests / program.name).resolve())
    command = [sys.executable, "-m", "benchmarks.torch_tests.worker", what, "--lines", str(lines)]
    return [*command, "--only", program.only, "--shard", *map(str, program.shard), "--leave-out", str(leave_out)]


def _environment(program: Program, variant: str, place: Place, folder: Path, gpus: str | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANHOOK")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment |= {"TEMP_DIR": str(folder), "TMPDIR": _short_temporary(folder), "PYTHONUNBUFFERED": "1"}
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    if program.name.startswith(WHEEL):
        backend = program.name.partition(":")[2]
        environment |= {"BACKEND": backend, "WORLD_SIZE": str(place.world), "INIT_METHOD": "env://"}
    if variant == RECORDED:
        environment |= {"WANHOOK": "1", "WANHOOK_OUT": str(folder / "recordings")}
    return environment


def _short_temporary(folder: Path) -> str:
    """Multiprocessing puts sockets into TMPDIR, whose paths have at most 107 characters."""
    path = folder / "t"
    path.mkdir(exist_ok=True)
    return str(path) if len(str(path)) < 60 else os.environ.get("TMPDIR", "/tmp")


def _wait(process: subprocess.Popen, limit: float) -> str:
    try:
        status = process.wait(limit)
        return "itself" if status == 0 else f"with status {status}"
    except subprocess.TimeoutExpired:
        return f"after {limit:.0f} s by us"
    finally:  # ranks that outlive their test would hold its GPUs
        _end(process)
        _running.discard(process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)


def _end(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_all() -> None:
    """Ends every program that is running, with its ranks."""
    for process in list(_running):
        _end(process)
