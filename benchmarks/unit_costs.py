"""Unit costs of recording, beside torch's own tools: `python -m benchmarks.unit_costs [--quick] [--out FILE]`.

Each part runs in a process of its own, because what wanhook attaches stays attached; within a part the variants are
measured in turn, but for what is bare (`attaching`). Times in ns, medians over rounds with 95 % bounds; the budgets are
the design's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from . import machine

TIMEOUT = 400  # seconds a part


def parts(gpus: int) -> dict[str, list[str]]:
    """Arguments of `python -m` for each part, by name."""
    found = {"allocator": ["benchmarks.allocator_cost"], "scope": ["benchmarks.scope_cost"],
             "integrations": ["benchmarks.integration_cost"], "collective": ["benchmarks.collective_cost"]}  # fmt: skip
    if torch.version.cuda is not None:
        found["tracker"] = ["benchmarks.tracker_cost"]
    if gpus >= 2:
        found["collective of 2 ranks"] = ["benchmarks.collective_cost", "--world-size", "2"]
    return found | {"writeback": ["benchmarks.writeback"]}


def run_part(name: str, command: list[str], options: list[str], folder: Path) -> dict:
    """{"figures": …} as the part wrote them, or {"failed": why}. Its text goes to our stdout."""
    out = folder / f"{name.replace(' ', '-')}.json"
    print(f"\n== {name}", flush=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command, *options, "--out", str(out)],
            cwd=machine.ROOT,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {TIMEOUT} s"}
    if done.returncode != 0 or not out.exists():
        return {"failed": f"exit status {done.returncode}"}
    return {"figures": json.loads(out.read_text())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it run, not what it costs")
    parser.add_argument("--only", help="run one part alone")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where recordings are written")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    chosen = parser.parse_args()
    facts = machine.describe()
    options = ["--dir", str(chosen.dir), *(["--quick"] if chosen.quick else [])]
    wanted = {name: command for name, command in parts(facts["gpus"]).items() if chosen.only in (None, name)}
    with tempfile.TemporaryDirectory() as folder:
        results = {name: run_part(name, command, options, Path(folder)) for name, command in wanted.items()}
    if chosen.out:
        chosen.out.write_text(json.dumps({"machine": facts, "quick": chosen.quick, "parts": results}, indent=1) + "\n")
    failed = {name: result["failed"] for name, result in results.items() if "failed" in result}
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
