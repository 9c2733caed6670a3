"""Counting what a program on made-up GPUs runs, with valgrind's callgrind: what starts it, asks for counts, reads them.

The program says when, through ``ask``; who started it has callgrind_control do that, in ``answer``, and reads the
``dumps`` of its main thread afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ON = ("-i", "on")
_BETWEEN = "between"  # name of a dump that nobody wants
ENVIRONMENT = {"MADE_GPU_GIB": "6"}  # a made-up device's memory: valgrind leaves a program few addresses
PATIENCE = 60  # seconds that callgrind_control may take
_ASK = "callgrind_control: "
_COSTS = frozenset("0123456789+-*")  # what a line of counts begins with: a line number, or the distance to the last one


def check(name: str) -> None:
    """SystemExit that says what is missing, in the name of a script."""
    if "MADE_GPU_SHARED" not in os.environ:
        raise SystemExit(f"{name}: run it on made-up GPUs: PYTHONPATH=tests python -m made_gpu --run python -m …")
    missing = [tool for tool in ("valgrind", "callgrind_control") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"{name}: needs {' and '.join(missing)} (Debian's package valgrind)")


# The program's side ---------------------------------------------------------------------------------------------------


def ask(*command: str) -> None:
    """Has callgrind_control do something: count from here on (``ON``), or write what was counted since (``dump()``)."""
    print(_ASK + json.dumps(command), flush=True)
    sys.stdin.readline()


def dump(name: str = _BETWEEN) -> tuple[str, str]:
    return "-d", name


# The side that starts it ----------------------------------------------------------------------------------------------


def start(
    command: list[str], folder: Path, environment: dict[str, str], options: Sequence[str] = ()
) -> subprocess.Popen:
    """The command under callgrind, its standard input and output ours; nothing is counted before ``ON``."""
    tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", "--vgdb=yes",
            "--smc-check=all-non-file", *options, f"--callgrind-out-file={folder / 'counts'}"]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen([*tool, *command], env=environment, stdin=pipe, stdout=pipe, text=True)


def answer(process: subprocess.Popen) -> None:
    """Does what the program asks of callgrind_control until it ends."""
    for line in process.stdout:
        if not line.startswith(_ASK):
            continue
        command = ["callgrind_control", *json.loads(line.removeprefix(_ASK)), str(process.pid)]
        nowhere = subprocess.DEVNULL
        subprocess.run(command, check=True, timeout=PATIENCE, stdout=nowhere, stderr=nowhere)
        process.stdin.write("\n")
        process.stdin.flush()


def dumps(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each named dump of the main thread."""
    for path in folder.glob("counts.*-01"):
        lines = path.read_text(errors="replace").splitlines()
        name = next((line for line in lines if line.startswith("desc: Trigger: dump ")), "").rpartition("dump ")[2]
        if name and name != _BETWEEN:
            yield name, lines


class Entry(NamedTuple):
    """What a function ran itself, without those that it called (``callee`` None), or what one that it called ran, all
    that was called from there included. Libraries by their paths."""

    library: str
    function: str
    callee_library: str | None
    callee: str | None
    events: tuple[str, ...]
    costs: tuple[int, ...]  # without zeros at the end

    def cost(self, event: str) -> int:
        """0 where it was not counted."""
        place = self.events.index(event) if event in self.events else len(self.costs)
        return self.costs[place] if place < len(self.costs) else 0


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Of one dump. Names are told once in it, and then by number."""
    names: dict[tuple[str, str], str] = {}

    def named(kind: str, value: str) -> str:
        number, _, name = value.partition(" ")
        if name:
            names[kind, number] = name
        return names[kind, number]

    library = function = callee = ""
    callee_library: str | None = None  # of the next call; the caller's where it is not told
    events: tuple[str, ...] = ()
    is_call = False
    for line in lines:
        key, _, value = line.rstrip("\n").partition("=")
        if key == "ob":
            library = named("library", value)
        elif key == "fn":
            function = named("function", value)
        elif key == "cob":
            callee_library = named("library", value)
        elif key == "cfn":
            callee = named("function", value)
        elif key == "calls":
            is_call = True  # the next line has what the function called took
        elif line.startswith("events:"):
            events = tuple(line.split()[1:])
        elif line[:1] in _COSTS:
            costs = tuple(int(each) for each in line.split()[1:])
            if is_call:
                yield Entry(library, function, callee_library or library, callee, events, costs)
                callee_library, is_call = None, False
            else:
                yield Entry(library, function, None, None, events, costs)
