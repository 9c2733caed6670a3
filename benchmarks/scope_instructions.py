"""What a scope with GPU events runs on the host, counted: where the time of `scope_cost` goes.

    PYTHONPATH=tests python -m made_gpu --run python -m benchmarks.scope_instructions [--out FILE]

`with trace("scope", level="op"): pass` in a loop under callgrind, on GPUs that compute nothing: instructions a scope,
by library, and what each function that the extension calls runs, with all that it calls in turn, so that these rows lie
within the others. Beside it the same with a closed gate, and with a context manager of contextlib's that does nothing.
Instructions are no time, and what the driver runs for its functions (cuda…) is not in them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from . import callgrind

LENGTHS = (100, 300)  # scopes of a loop
RESOLVED_SECONDS = 0.3  # until the resolver has given the event pairs back
KINDS = ("contextmanager", "gate closed", "recorded")
LEAST = 10  # instructions; what runs fewer is not shown
_OURS = re.compile(r"/wanhook/_C\.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write all counts as JSON")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def loop(manager, count: int) -> None:
    for _ in range(count):
        with manager("scope", level="op"):
            pass


@contextlib.contextmanager
def nothing(_name: str, level: str):
    """A context manager as Python programs write them."""
    yield


def enter_all(folder: Path) -> None:
    """Each kind of loop at each length, counted."""
    import torch

    import wanhook

    wanhook.start(folder)
    torch.ones(1, device="cuda")
    torch.cuda.synchronize()

    def enter(name: str, manager, count: int, *, counted: bool) -> None:
        time.sleep(RESOLVED_SECONDS)
        if counted:
            callgrind.ask(*callgrind.dump())
        loop(manager, count)
        if counted:
            callgrind.ask(*callgrind.dump(f"{name}/{count}"))

    def each(*, counted: bool) -> None:
        for count in LENGTHS:
            enter("recorded", wanhook.trace, count, counted=counted)
        wanhook.pause()
        for count in LENGTHS:
            enter("gate closed", wanhook.trace, count, counted=counted)
            enter("contextmanager", nothing, count, counted=counted)
        wanhook.resume()

    for _ in range(3):
        each(counted=False)
    gc.collect()
    gc.disable()
    callgrind.ask(*callgrind.ON)
    each(counted=True)
    wanhook.stop(wait=10)


def counted(lines: Iterable[str]) -> tuple[Counter, Counter]:
    """Instructions of one dump: by library, and those of functions that the extension called, with their callees'."""
    by_library: Counter = Counter()
    called: Counter = Counter()
    for entry in callgrind.entries(lines):
        if entry.callee is None:
            by_library[Path(entry.library).name.split(".")[0]] += entry.cost("Ir")
        elif _OURS.search(entry.library) and not _OURS.search(entry.callee_library):
            called[entry.callee.partition("(")[0]] += entry.cost("Ir")
    return by_library, called


def a_scope(short: Counter, long: Counter) -> dict[str, float]:
    """Instructions of one scope, largest first."""
    each = {name: (long[name] - short[name]) / (LENGTHS[1] - LENGTHS[0]) for name in long}
    return dict(sorted(each.items(), key=lambda item: -item[1]))


def table(counts: dict[str, tuple[Counter, Counter]]) -> list[str]:
    lines = []
    for kind in KINDS:
        short, long = (counts[f"{kind}/{count}"] for count in LENGTHS)
        libraries, called = a_scope(short[0], long[0]), a_scope(short[1], long[1])
        lines.append(f"{kind}: {sum(libraries.values()):.0f} instructions a scope")
        lines += [f"  in {name:<44}{value:>8.0f}" for name, value in libraries.items() if value >= LEAST]
        if kind == KINDS[-1]:
            lines += [f"  called: {name:<39}{value:>8.0f}" for name, value in called.items() if value >= LEAST]
    return lines


def main() -> int:
    chosen = parse()
    if chosen.inside:
        enter_all(chosen.inside)
        return 0
    callgrind.check("scope_instructions")
    with tempfile.TemporaryDirectory(prefix="wanhook-instructions-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.scope_instructions", "--inside", str(folder / "recording")]
        process = callgrind.start(command, folder, {**os.environ, **callgrind.ENVIRONMENT})
        try:
            callgrind.answer(process)
            status = process.wait(60)
        finally:
            process.kill()
            process.wait()
        if status:
            raise SystemExit(f"scope_instructions: the counted program ended with exit status {status}")
        counts = {name: counted(lines) for name, lines in callgrind.dumps(folder)}
    print("\n".join(table(counts)))
    if chosen.out:
        chosen.out.write_text(json.dumps(counts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
