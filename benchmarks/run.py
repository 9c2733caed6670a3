"""All benchmarks, with the machine they ran on: `python -m benchmarks.run [--quick] [--wan DIR] [--out FILE]`.

Unit costs; reading and analysing; replaying allocator events; and, with two GPUs or more and a Wan2.2 checkout (--wan
or WAN22_REPO), the cost of recording Wan2.2's own generate() beside other tools. One part that fails does not keep the
others from running.
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
from pathlib import Path

from . import machine

PARTS = ["unit", "reading", "replay", "wan"]
UNIT_TIMEOUT, READING_TIMEOUT, REPLAY_TIMEOUT, WAN_TIMEOUT = 1_200, 600, 600, 1_500  # seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it run, not what it costs")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave the others out")
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


def reading(chosen: argparse.Namespace) -> dict:
    script = machine.ROOT / "benchmarks" / "reading.py"
    if not script.is_file():
        return {"skipped": "there is no benchmarks/reading.py"}
    counts = ["100000", "1000000"] if chosen.quick else []
    status, output = run([sys.executable, str(script), *counts], READING_TIMEOUT)
    return {"status": status, "output": output.splitlines()}


def replay(chosen: argparse.Namespace) -> dict:
    command = [sys.executable, str(machine.ROOT / "benchmarks" / "replay.py")]
    status, output = run(command + (["1000000"] if chosen.quick else []), REPLAY_TIMEOUT)
    return {"status": status, "output": output.splitlines()}


def wan(chosen: argparse.Namespace, gpus: int, folder: Path) -> dict:
    """Results by size of Wan; one sentence when they cannot be had here."""
    if chosen.wan is None:
        return {"skipped": "no Wan2.2 checkout was named (--wan or WAN22_REPO)"}
    if gpus < 2:
        return {"skipped": f"needs 2 GPUs, {gpus} here"}
    return {size: wan_size(chosen, size, gpus, folder) for size in chosen.sizes}


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
            elif name == "reading":
                print("\n== reading", flush=True)
                results[name] = reading(chosen)
            elif name == "replay":
                print("\n== replay", flush=True)
                results[name] = replay(chosen)
            else:
                print("\n== Wan2.2", flush=True)
                results[name] = wan(chosen, facts["gpus"], Path(folder))
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
