"""What asking NVML for a sample costs: `python -m benchmarks.device_samples [--seconds N]`. Needs a GPU.

Each sample carries how long the recorder's own thread spent on it. Taken with the GPU idle and at work, because the
driver answers other questions then; nothing of this time is spent on a thread of the program.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from .machine import describe, text


def record(folder: Path, seconds: float, busy: bool):
    import wanhook

    values = torch.ones(4096, 4096, device="cuda", dtype=torch.bfloat16)
    wanhook.start(folder)
    with wanhook.trace("busy" if busy else "idle"):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if busy:
                for _ in range(50):
                    values @ values
                torch.cuda.synchronize()
            else:
                time.sleep(0.1)
    wanhook.stop(wait=10)
    (trace,) = wanhook.load(folder).traces
    shutil.rmtree(folder)
    return trace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15, help="length of each of the two recordings")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("needs a GPU")
        return 1
    print(text(describe()), flush=True)
    print(
        f"\n{'':<6}{'samples':>8}{'median µs':>11}{'largest µs':>12}{'SM MHz':>8}{'W':>6}{'°C':>5}  recorder's thread"
    )
    for name, busy in (("idle", False), ("busy", True)):
        trace = record(Path(tempfile.mkdtemp(prefix="wanhook-samples-")), chosen.seconds, busy)
        samples = trace.device_samples
        if not len(samples):
            print(f"{name:<6}       0  {trace.meta.get('notes', [])}")
            continue
        cost, last = samples["cost"] / 1000, samples[-1]
        share = trace.health.resolver_cpu / trace.health.wall
        print(
            f"{name:<6}{len(samples):>8}{np.median(cost):>11.0f}{cost.max():>12.0f}{last['sm_clock']:>8}"
            f"{last['power'] / 1000:>6.0f}{last['temperature']:>5}  {share:.2%} of a CPU",
            flush=True,
        )
    print(f"\ntopology: {trace.meta.get('gpus')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
