"""What recording adds to the instructions of a step of Wan2.2's generate(): counted, without a GPU and without noise.

    PYTHONPATH=tests python -m made_gpu --run python -m benchmarks.wan22.instructions --wan DIR [--size tiny] [--caches]

Two ranks on GPUs that compute nothing (tests/made_gpu), so what runs is the host's part of a launch-bound request: the
interpreter, torch, the hooks. Rank 0 runs under valgrind's callgrind, which counts the instructions of each library.
Requests of two lengths are served, bare, with the integrations' wrappers while the recording is paused, and recorded;
a step's share is the difference between the lengths. What the CUDA driver would do, event records among it, is not in
it, and instructions are no time. With --caches callgrind also plays them through caches of 32 KiB (instructions),
48 KiB (data) and 2 MiB, as an Intel server core has them, without prefetching: what a hook's code and data push out of
them shows as the program's own misses. Needs valgrind, and a build of wanhook for a torch with CUDA.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .. import callgrind

LENGTHS = (4, 14)  # steps of a request
# Where the instructions of an object file belong; the first that matches. libc is apart: a copy has those of its data.
PARTS = (
    ("wanhook", re.compile(r"/wanhook/_C\.")),
    ("torch", re.compile(r"/(torch|nvidia)/")),
    ("interpreter", re.compile(r"/(lib)?python3[^/]*$|/lib-dynload/")),
)
REST = "rest"
# What is counted, by callgrind's names for it.
QUANTITIES = {
    "instructions": ("Ir",),
    "L1 misses, instructions": ("I1mr",),
    "L1 misses, data": ("D1mr", "D1mw"),
    "L2 misses": ("ILmr", "DLmr", "DLmw"),
}
CACHES = ("--cache-sim=yes", "--I1=32768,8,64", "--D1=49152,12,64", "--LL=2097152,16,64")


def parse() -> argparse.Namespace:
    from .harness import add_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--caches", action="store_true", help="count cache misses too, which takes twice the time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(size="tiny")
    return parser.parse_args()


# The ranks' side ------------------------------------------------------------------------------------------------------


def serve_all(chosen: argparse.Namespace) -> None:
    """Each kind of request at each length; rank 0 has its counters written before and behind each."""
    from .harness import build_pipeline, sized
    from .made_up import patch
    from .observers import Nothing, RecordingWithScopes, WrappersAlone

    patch()
    pipeline = build_pipeline(chosen.wan, sized(chosen), chosen.seed)
    rank = pipeline.ranks.rank
    kinds = {"bare": Nothing, "wrappers": WrappersAlone, "recorded": RecordingWithScopes, "bare again": Nothing}

    def counters(*command: str) -> None:
        pipeline.ranks.synchronize()
        if rank == 0:
            callgrind.ask(*command)
        pipeline.ranks.synchronize()

    def serve(name: str, kind: type[Nothing], steps: int, *, counted: bool) -> None:
        with kind(chosen.runs / f"{name}-{steps}-{counted}", rank):
            if counted:
                counters(*callgrind.dump())
            pipeline.generate(chosen.seed, steps)
            if counted:
                counters(*callgrind.dump(f"{name}/{steps}"))

    for name, kind in kinds.items():  # each kernel's and each wrapper's first use
        serve(name, kind, LENGTHS[0], counted=False)
    gc.collect()
    gc.disable()  # a collection is as long as all that lives, and comes when it comes
    counters(*callgrind.ON)
    for name, kind in kinds.items():
        for steps in LENGTHS:
            serve(name, kind, steps, counted=True)
    pipeline.ranks.leave()


# The side that starts and asks them -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def start_rank(rank: int, folder: Path, port: int, arguments: list[str]) -> subprocess.Popen:
    """Rank 0 under callgrind, its standard input and output ours."""
    environment = {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **callgrind.ENVIRONMENT,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.wan22.instructions", "--inside", *arguments]
    if rank:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    caches = CACHES if "--caches" in arguments else ()
    return callgrind.start(command, folder, environment, caches)


def part_of(library: str) -> str:
    return next((part for part, form in PARTS if form.search(library)), REST)


def counted(lines: Iterable[str]) -> dict[str, Counter]:
    """Of one dump: each quantity by part, without that of the functions called."""
    found: dict[str, Counter] = {}
    for entry in callgrind.entries(lines):
        for what, of in QUANTITIES.items():
            if entry.callee is None and of[0] in entry.events:
                costs = found.setdefault(what, Counter())
                costs[part_of(entry.library)] += sum(entry.cost(event) for event in of)
    return found


def read_counts(folder: Path) -> dict[str, dict[str, Counter]]:
    """Of rank 0's main thread: each quantity's counts by the name of their dump."""
    found: dict[str, dict[str, Counter]] = {}
    for name, lines in callgrind.dumps(folder):
        for what, counts in counted(lines).items():
            found.setdefault(what, {})[name] = counts
    return found


def a_step(counts: dict[str, Counter], kind: str) -> dict[str, float]:
    """Thousands of one quantity in one step, by part."""
    short, long = (counts[f"{kind}/{steps}"] for steps in LENGTHS)
    parts = [name for name, _ in PARTS] + [REST]
    return {part: (long[part] - short[part]) / (LENGTHS[1] - LENGTHS[0]) / 1e3 for part in parts}


def table(what: str, counts: dict[str, Counter]) -> list[str]:
    """The bare step, and what each kind has more than the one before it; percentages without the rest."""
    kinds = {kind: a_step(counts, kind) for kind in ("bare", "wrappers", "recorded", "bare again")}
    parts = list(kinds["bare"])
    whole = sum(value for part, value in kinds["bare"].items() if part != REST)
    heads = "".join(f"{part:>13}" for part in parts)
    lines = [f"{f'thousands of {what} a step':<46}{heads}{'of a step':>11}"]

    def row(name: str, of: dict[str, float], less: dict[str, float] | None) -> str:
        values = {part: of[part] - (less[part] if less else 0) for part in parts}
        share = sum(value for part, value in values.items() if part != REST) / whole
        return f"{name:<46}" + "".join(f"{values[part]:>13.1f}" for part in parts) + f"{100 * share:>10.2f}%"

    lines.append(row("bare", kinds["bare"], None))
    lines.append(row("wrappers, paused, over bare", kinds["wrappers"], kinds["bare"]))
    lines.append(row("recorded, over wrappers", kinds["recorded"], kinds["wrappers"]))
    lines.append(row("bare again, over bare", kinds["bare again"], kinds["bare"]))
    return lines


def main() -> int:
    chosen = parse()
    if chosen.inside:
        serve_all(chosen)
        return 0
    callgrind.check("instructions")
    with tempfile.TemporaryDirectory(prefix="wanhook-instructions-") as name:
        folder = Path(name)
        arguments, port = [*sys.argv[1:], "--runs", str(folder / "runs")], free_port()
        ranks = [start_rank(rank, folder, port, arguments) for rank in (1, 0)]
        try:
            callgrind.answer(ranks[1])
            statuses = [rank.wait(60) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        if any(statuses):
            raise SystemExit(f"instructions: the ranks ended with exit status {statuses[1]} and {statuses[0]}")
        counts = read_counts(folder)
    for what, of in counts.items():
        print("\n".join(table(what, of)))
    print("rest: libc, whose copies are as long as their data happen to be, and what stands for the driver")
    if chosen.out:
        chosen.out.write_text(json.dumps(counts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
