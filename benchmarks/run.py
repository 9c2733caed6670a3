"""All benchmarks, with the machine they ran on: `python -m benchmarks.run [--quick] [--wan DIR] [--out FILE]`.

Unit costs; resident memory; what writing a recording to the disk takes; reading and analysing; replaying allocator
events; on GPUs the window for NCCL's kernels and the perturbation check; and, with two GPUs or more and a Wan2.2
checkout (--wan or WAN22_REPO), the cost of recording Wan2.2's own generate() beside other tools, and of a launch-bound
step of it. `--only` runs single parts, also those that are long and about truth, not cost: kineto_matrix, long_run.
One part that fails does not keep the others from running.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import machine

UNIT_TIMEOUT, WAN_TIMEOUT = 1_200, 1_500  # seconds


@dataclass(frozen=True)
class Script:
    """A benchmark of its own: arguments of `python -m`, more of them for a quick run, and the GPUs that it needs."""

    command: list[str]
    quick: list[str] = field(default_factory=list)
    gpus: int = 0
    timeout: float = 600  # seconds
    keeps_files: bool = False  # wants a folder for them


_TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
SCRIPTS = {
    "resident": Script(["benchmarks.resident"], ["--quick"]),
    "written_back": Script(["benchmarks.written_back", "--rounds", "5"], ["--quick"]),
    "reading": Script(["benchmarks.reading"], ["100000", "1000000"]),
    "replay": Script(["benchmarks.replay"], ["1000000"]),
    "device_samples": Script(["benchmarks.device_samples"], ["--seconds", "3"], gpus=1),
    "perturbation": Script(["benchmarks.perturbation"], ["--quick"], gpus=1),
    "kernel_intervals": Script(["benchmarks.kernel_intervals"], gpus=2),
}
LONG_SCRIPTS = {
    "kineto_matrix": Script([*_TORCHRUN, "benchmarks.kineto_matrix"], ["--calls", "5"], gpus=2, keeps_files=True),
    "long_run": Script(["benchmarks.long_run"], ["--minutes", "1"], gpus=1, timeout=900),
}
PARTS = ["unit", *SCRIPTS, "wan"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it run, not what it costs")
    parser.add_argument("--only", choices=[*PARTS, *LONG_SCRIPTS], action="append", help="leave the others out")
    parser.add_argument("--wan", type=Path, default=os.environ.get("WAN22_REPO"), help="Wan2.2 checkout (WAN22_REPO)")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "14b"], help="sizes of Wan to run")
    parser.add_argument("--pairs", type=int, help="pairs of a recorded and an unrecorded request (20; 2 with --quick)")
    parser.add_argument("--peer-rounds", type=int, help="rounds of the other tools (4; 1 with --quick)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where recordings are written")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    return parser.parse_args()


def run(command: list[str], timeout: float) -> tuple[int | None, str]:
    """(exit status, None when it was ended after ``timeout`` seconds; its output, which is shown as it comes)."""
    process = subprocess.Popen(
        command, cwd=machine.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    lines: list[str] = []

    def show() -> None:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)

    # In a thread, and not waited for without end: a grandchild that was left over could keep the pipe open.
    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        end(process)
    shown.join(10)
    return status, "".join(lines)


def end(process: subprocess.Popen) -> None:
    """End what is left of a program: politely first, because torchrun's ranks are in sessions of their own."""
    for number, patience in ((signal.SIGTERM, 40), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def unit_costs(chosen: argparse.Namespace, folder: Path) -> dict:
    out = folder / "unit.json"
    command = [sys.executable, "-m", "benchmarks.unit_costs", "--dir", str(chosen.dir), "--out", str(out)]
    status, _ = run(command + (["--quick"] if chosen.quick else []), UNIT_TIMEOUT)
    return {"status": status, "parts": json.loads(out.read_text())["parts"] if out.exists() else {}}


def script(chosen: argparse.Namespace, part: Script, gpus: int, folder: Path) -> dict:
    if gpus < part.gpus:
        return {"skipped": f"needs {part.gpus} GPUs, {gpus} here"}
    command = [sys.executable, "-m", *part.command, *(part.quick if chosen.quick else [])]
    command += ["--out", str(folder / "files")] if part.keeps_files else []
    status, output = run(command, part.timeout)
    return {"status": status, "output": output.splitlines()}


def wan(chosen: argparse.Namespace, gpus: int, folder: Path) -> dict:
    """Results by size of Wan; one sentence when they cannot be had here."""
    if chosen.wan is None:
        return {"skipped": "no Wan2.2 checkout was named (--wan or WAN22_REPO)"}
    if gpus < 2:
        return {"skipped": f"needs 2 GPUs, {gpus} here"}
    found = {size: wan_size(chosen, size, gpus, folder) for size in chosen.sizes}
    if "tiny" in chosen.sizes:  # launch-bound: whole requests are too far apart to tell a percent
        found["steps of tiny"] = wan_steps(chosen, gpus, folder)
    return found


def wan_size(chosen: argparse.Namespace, size: str, gpus: int, folder: Path) -> dict:
    out = folder / f"wan-{size}.json"
    pairs = chosen.pairs or (2 if chosen.quick else 20)
    rounds = chosen.peer_rounds or (1 if chosen.quick else 4)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus),
        "-m", "benchmarks.wan22.overhead", "--wan", str(chosen.wan), "--size", size, "--recorders", "scopes",
        "--pairs", str(pairs), "--peer-rounds", str(rounds), "--runs", str(folder / f"runs-{size}"), "--out", str(out),
    ]  # fmt: skip
    status, output = run(command, WAN_TIMEOUT)
    figures = json.loads(out.read_text()) if out.exists() else None
    return {"status": status, "figures": figures, "output_end": output.splitlines()[-40:]}


def wan_steps(chosen: argparse.Namespace, gpus: int, folder: Path) -> dict:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus),
        "-m", "benchmarks.wan22.steps", "--wan", str(chosen.wan), "--size", "tiny",
        "--runs", str(folder / "runs-steps"), "--seconds", "20" if chosen.quick else "180",
    ]  # fmt: skip
    status, output = run(command, WAN_TIMEOUT)
    return {"status": status, "output_end": output.splitlines()[-40:]}


def main() -> int:
    chosen = parse()
    wanted = chosen.only or PARTS
    facts = machine.describe()
    print(machine.text(facts), flush=True)
    results = {"machine": facts, "quick": chosen.quick}
    with tempfile.TemporaryDirectory(prefix="wanhook-bench-", dir=chosen.dir) as folder:
        for name in wanted:
            began = time.monotonic()
            if name == "unit":
                results[name] = unit_costs(chosen, Path(folder))
            elif name == "wan":
                print("\n== Wan2.2", flush=True)
                results[name] = wan(chosen, facts["gpus"], Path(folder))
            else:
                print(f"\n== {name}", flush=True)
                results[name] = script(chosen, (SCRIPTS | LONG_SCRIPTS)[name], facts["gpus"], Path(folder))
            results[name]["seconds"] = round(time.monotonic() - began, 1)
            if "skipped" in results[name]:
                print(f"skipped: {results[name]['skipped']}", flush=True)
            if chosen.out:
                chosen.out.write_text(json.dumps(results, indent=1) + "\n")
    statuses = [results[name].get("status", 0) for name in wanted]
    statuses += [size.get("status", 0) for size in results.get("wan", {}).values() if isinstance(size, dict)]
    return 0 if all(status == 0 for status in statuses) else 1


if __name__ == "__main__":
    sys.exit(main())
