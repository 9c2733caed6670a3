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
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

LENGTHS = (4, 14)  # steps of a request
ADDRESSES = 6  # GiB of a made-up device: valgrind leaves a program few
ASK = "callgrind_control: "
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
_COSTS = frozenset("0123456789+-*")  # what a line of counts begins with: a line number, or the distance to the last one


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
            print(ASK + json.dumps(command), flush=True)
            sys.stdin.readline()
        pipeline.ranks.synchronize()

    def serve(name: str, kind: type[Nothing], steps: int, *, counted: bool) -> None:
        with kind(chosen.runs / f"{name}-{steps}-{counted}", rank):
            if counted:
                counters("-d", "between")
            pipeline.generate(chosen.seed, steps)
            if counted:
                counters("-d", f"{name}/{steps}")

    for name, kind in kinds.items():  # each kernel's and each wrapper's first use
        serve(name, kind, LENGTHS[0], counted=False)
    gc.collect()
    gc.disable()  # a collection is as long as all that lives, and comes when it comes
    counters("-i", "on")
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
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "MADE_GPU_GIB": str(ADDRESSES),
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.wan22.instructions", "--inside", *arguments]
    caches = CACHES if "--caches" in arguments else ()
    if rank:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", "--vgdb=yes",
            "--smc-check=all-non-file", *caches, f"--callgrind-out-file={folder / 'counts'}"]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen([*tool, *command], env=environment, stdin=pipe, stdout=pipe, text=True)


def answer(process: subprocess.Popen) -> None:
    """Does what rank 0 asks of callgrind_control until it ends."""
    for line in process.stdout:
        if not line.startswith(ASK):
            continue
        command = ["callgrind_control", *json.loads(line.removeprefix(ASK)), str(process.pid)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.stdin.write("\n")
        process.stdin.flush()


def counted(lines: Iterable[str]) -> dict[str, Counter]:
    """Of one file of callgrind's: each quantity by part, without that of the functions called."""
    names: dict[str, str] = {}
    found: dict[str, Counter] = {}
    columns: dict[str, list[int]] = {}
    part, is_call = REST, False
    for line in lines:
        key, _, value = line.rstrip("\n").partition("=")
        if key in ("ob", "cob"):
            number, _, name = value.partition(" ")
            if name:
                names[number] = next((part for part, form in PARTS if form.search(name)), REST)
            if key == "ob":
                part = names[number]
        elif key == "calls":
            is_call = True  # the next line has what the function called took
        elif line.startswith("events:"):
            events = line.split()[1:]
            columns = {what: [events.index(each) for each in of if each in events] for what, of in QUANTITIES.items()}
            found = {what: Counter() for what, places in columns.items() if places}
        elif line[:1] in _COSTS:
            if not is_call:
                costs = [int(each) for each in line.split()[1:]]  # without zeros at the end
                for what, of in found.items():
                    of[part] += sum(costs[place] for place in columns[what] if place < len(costs))
            is_call = False
    return found


def read_counts(folder: Path) -> dict[str, dict[str, Counter]]:
    """Of rank 0's main thread: each quantity's counts by the name of their dump."""
    found: dict[str, dict[str, Counter]] = {}
    for path in folder.glob("counts.*-01"):
        lines = path.read_text(errors="replace").splitlines()
        name = next((line for line in lines if line.startswith("desc: Trigger: dump ")), "").rpartition("dump ")[2]
        if name and name != "between":
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
    if "MADE_GPU_SHARED" not in os.environ:
        raise SystemExit("instructions: run it on made-up GPUs: PYTHONPATH=tests python -m made_gpu --run python -m …")
    missing = [tool for tool in ("valgrind", "callgrind_control") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"instructions: needs {' and '.join(missing)} (Debian's package valgrind)")
    with tempfile.TemporaryDirectory(prefix="wanhook-instructions-") as name:
        folder = Path(name)
        arguments, port = [*sys.argv[1:], "--runs", str(folder / "runs")], free_port()
        ranks = [start_rank(rank, folder, port, arguments) for rank in (1, 0)]
        try:
            answer(ranks[1])
            statuses = [rank.wait(60) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
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
