"""Worst case of a recorded allocation while the disk is busy: `python -m benchmarks.writeback [--quick] [--dir DIR]`.

Another process writes to the file system that holds the recording, at most 10 s and 4 GiB, and removes what it wrote.
Each alloc + free pair is timed alone, gate closed and recorded in turns of 0.25 s, with and without the writer.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from .allocator_cost import BYTES, warm_up
from .scope_cost import recording
from .unit_report import arguments, write_json

WRITER_SECONDS = 10.0
WRITER_BYTES = 4 << 30
BLOCK = 8 << 20
SYNC_BYTES = 64 << 20  # written between two fdatasync calls
TURN_SECONDS = 0.25
PERCENTILES = (50.0, 99.0, 99.99, 100.0)


def write_heavily(path: Path, limit: int) -> None:
    """Write and sync for WRITER_SECONDS or ``limit`` bytes, whichever comes first; the file is gone afterwards."""
    block, written, until = os.urandom(BLOCK), 0, time.monotonic() + WRITER_SECONDS
    try:
        with path.open("wb", buffering=0) as file:
            while time.monotonic() < until and written < limit:
                file.write(block)
                written += BLOCK
                if written % SYNC_BYTES == 0:
                    os.fdatasync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen]:
    """The writing process; ended and cleaned up after the block."""
    path = folder / "ballast"
    limit = min(WRITER_BYTES, shutil.disk_usage(folder).free // 4)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.writeback", "--write", str(path), str(limit)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


def time_pairs(device: str, seconds: float) -> np.ndarray:
    """ns of each alloc + free (int64[n]) for that long."""
    empty, clock, found = torch.empty, time.perf_counter_ns, []
    gc.disable()
    try:
        until = clock() + int(seconds * 1e9)
        now = clock()
        while now < until:
            empty(BYTES, dtype=torch.uint8, device=device)
            after = clock()
            found.append(after - now)
            now = clock()
    finally:
        gc.enable()
    return np.array(found)


def in_turns(device: str, turns: int, alive=lambda: True) -> dict[str, np.ndarray]:
    """ns of each pair with the gate closed and recorded, in turns of TURN_SECONDS while ``alive()``."""
    found: dict[str, list[np.ndarray]] = {"gate closed": [], "recorded": []}
    for _ in range(turns):
        if not alive():
            break
        found["gate closed"].append(time_pairs(device, TURN_SECONDS))
        with recording():
            found["recorded"].append(time_pairs(device, TURN_SECONDS))
    return {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in found.items()}


def text(measured: dict[str, np.ndarray], dropped: int) -> str:
    head = f"{'alloc + free, each timed alone':<34} {'pairs':>9} {'p50 ns':>8} {'p99':>8} {'p99.99':>10} {'max':>12}"
    rows = [head]
    for name, values in measured.items():
        shown = np.percentile(values, PERCENTILES) if len(values) else [float("nan")] * len(PERCENTILES)
        rows.append(
            f"{name:<34} {len(values):>9} "
            + " ".join(f"{value:>{width}.0f}" for value, width in zip(shown, (8, 8, 10, 12), strict=True))
        )
    rows.append(f"records dropped: {dropped}")
    return "\n".join(rows)


def measure(device: str, folder: Path, turns: int) -> tuple[dict[str, np.ndarray], int]:
    """Times by state, and how many records were dropped."""
    import wanhook
    from wanhook import _native as native

    warm_up(device)
    wanhook.start(folder / "recording")
    wanhook.pause()
    measured = {f"{name}, disk quiet": values for name, values in in_turns(device, turns).items()}
    with writer(folder) as process:
        time.sleep(0.5)
        busy = in_turns(device, turns, alive=lambda: process.poll() is None)
    measured |= {f"{name}, disk busy": values for name, values in busy.items()}
    dropped = native.load().status()["dropped"]
    wanhook.stop(wait=20)
    return measured, dropped


def main() -> None:
    if sys.argv[1:2] == ["--write"]:
        return write_heavily(Path(sys.argv[2]), int(sys.argv[3]))
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir))
    try:
        measured, dropped = measure(device, folder, 3 if chosen.quick else 16)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(text(measured, dropped), flush=True)
    figures = {
        name: dict(zip(map(str, PERCENTILES), np.percentile(values, PERCENTILES).tolist(), strict=True))
        for name, values in measured.items()
        if len(values)
    }
    return write_json({"percentiles": figures, "dropped": dropped}, chosen.out)


if __name__ == "__main__":
    main()
