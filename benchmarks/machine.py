"""What a figure was measured on: without it, it means nothing."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def describe() -> dict[str, str | int | None]:
    """Machine, versions, commit and date. Starts no CUDA context."""
    import torch

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "gpus": _gpu_count(),
        "gpu": _gpu("name"),
        "driver": _gpu("driver_version"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "nccl": _nccl(torch),
    }


def text(facts: dict) -> str:
    return "\n".join(f"{name:<7} {value}" for name, value in facts.items() if value is not None)


def _output(*command: str) -> str | None:
    """What a command prints; None when it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> str | None:
    """BENCH_COMMIT names it where a copy of the tree came without its history."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    changed = _output("git", "status", "--porcelain", "--untracked-files=no", "--", "csrc", "wanhook", "benchmarks")
    return f"{commit} with local changes" if changed else commit


def _gpu_lines(field: str) -> list[str]:
    return (_output("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader") or "").splitlines()


def _gpu_count() -> int:
    return len(_gpu_lines("index"))


def _gpu(field: str) -> str | None:
    return ", ".join(sorted(set(_gpu_lines(field)))) or None


def _cpu() -> str | None:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else platform.machine()


def _nccl(torch) -> str | None:
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except Exception:  # a torch without NCCL says so in more than one way
        return None
