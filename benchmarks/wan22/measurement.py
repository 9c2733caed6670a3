"""One measured request: its times, its memory peaks, its result, and what the machine was."""

from __future__ import annotations

import datetime
import gc
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import expected
from .harness import Pipeline, Ranks
from .observers import Nothing


@dataclass
class Measured:
    """Seconds of the host clock, bytes of torch's allocator on this rank's device (0 without a GPU)."""

    observer: str
    seed: int
    seconds: float  # the request alone, from all ranks ready to this rank's GPU done
    enter_seconds: float  # starting the observer
    exit_seconds: float  # stopping it, its export included
    latents: str  # SHA-256
    allocated_peak: int = 0
    reserved_peak: int = 0
    output_bytes: int = 0
    allocator_events: dict = field(default_factory=dict)  # growth of torch's own counters, by action


def measure(pipeline: Pipeline, observer: Nothing, seed: int, steps: int | None = None, pause: float = 0.0) -> Measured:
    """Serve one request under `observer`, after `pause` idle seconds, from an empty allocator cache, peaks reset."""
    ranks, cuda = pipeline.ranks, pipeline.ranks.device.type == "cuda"
    pipeline.latents = None
    gc.collect()
    ranks.synchronize()
    before = _fresh_counters(ranks) if cuda else {}
    time.sleep(pause)
    entering = time.perf_counter()
    with observer:
        entered = time.perf_counter()
        ranks.synchronize()
        started = time.perf_counter()
        pipeline.generate(seed, steps)
        if cuda:
            torch.cuda.synchronize(ranks.device)
        ended = time.perf_counter()
    left = time.perf_counter()
    result = Measured(observer.name, seed, ended - started, entered - entering, left - ended, "")
    if cuda:
        after = torch.cuda.memory_stats(ranks.device)
        result.allocated_peak = after["allocated_bytes.all.peak"]
        result.reserved_peak = after["reserved_bytes.all.peak"]
        result.allocator_events = expected.counter_growth(before, after)
    result.output_bytes = observer.output_bytes()
    result.latents = pipeline.latents_digest()
    return result


def _fresh_counters(ranks: Ranks) -> dict:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(ranks.device)
    return torch.cuda.memory_stats(ranks.device)


def machine(ranks: Ranks) -> dict:
    """What a figure must be quoted with: date, commit of the project, devices and versions."""
    cuda = ranks.device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "ranks": ranks.world_size,
        "device": torch.cuda.get_device_name(ranks.device) if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "python": platform.python_version(),
    }


def _commit() -> str | None:
    """BENCH_COMMIT names it where a copy of the tree came without its history; else git's word, else None."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None if done.returncode == 0 else None
