"""What it costs a program when the kernel writes a recording to the disk: `python -m benchmarks.written_back`.

The kernel takes the write permission from each mapped page before it writes that page, and interrupts all threads of
the process to make that known. A recording of so many MiB is written while this thread counts the time for which it was
kept from running, and beside it, in turns, a file of the same size that stays mapped, as a recorder would leave it that
does nothing about its full chunks.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import wanhook

from .rounds import figure
from .unit_report import Table, arguments, finish, rounds_of

SHORTEST, LONGEST = 1_000, 100_000  # ns between two readings of the clock: interrupted, and not for another process
SETTLE_SECONDS = 3.0  # full chunks leave the resident memory within two samples of the recorder
RECORD_BYTES = 64
BATCH = 1_500  # marks between two pauses: as fast as a launch-bound Wan allocates, with few chunks prepared ahead


def lost_while_written(file: Path) -> float:
    """ns that this thread lost to interruptions while another one had ``file`` written to the disk."""
    with file.open("r+b") as opened:
        writer = threading.Thread(target=os.fdatasync, args=(opened.fileno(),))
        writer.start()
        clock, lost, looks = time.perf_counter_ns, 0, 0
        last = clock()
        while looks % 1_000 or writer.is_alive():
            now = clock()
            if SHORTEST < now - last < LONGEST:
                lost += now - last
            last, looks = now, looks + 1
        writer.join()
    return float(lost)


def fill_recording(folder: Path, size: int) -> Path:
    wanhook.start(folder)
    for number in range(size // RECORD_BYTES):
        wanhook.mark("filling")
        if number % BATCH == 0:
            time.sleep(0.005)
    time.sleep(SETTLE_SECONDS)
    (file,) = folder.glob("*.wanhook")
    return file


def measure(folder: Path, size: int, rounds: int) -> dict[str, np.ndarray]:
    """ns lost a MiB written, by what was written."""
    found: dict[str, list[float]] = {"recording that runs": [], "file that stays mapped": [], "nothing to write": []}
    for number in range(rounds):
        recording = fill_recording(folder / f"recording-{number}", size)
        found["recording that runs"].append(lost_while_written(recording))
        found["nothing to write"].append(lost_while_written(recording))
        wanhook.stop(wait=20)
        path = folder / f"mapped-{number}"
        with path.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            with mmap.mmap(file.fileno(), size) as mapped:
                for offset in range(0, size, mmap.PAGESIZE):
                    mapped[offset] = 1
                found["file that stays mapped"].append(lost_while_written(path))
        path.unlink()
        shutil.rmtree(folder / f"recording-{number}")
    return {name: np.array(values) / (size >> 20) for name, values in found.items()}


def main() -> None:
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    size = (8 if chosen.quick else 192) << 20
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir))
    try:
        measured = measure(folder, size, 2 if chosen.quick else min(rounds_of(chosen), 7))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = Table(f"time a thread of the program loses while {size >> 20} MiB are written: ns a MiB")
    for name, values in measured.items():
        table.add(name, figure(values))
    return finish([table], chosen.out)


if __name__ == "__main__":
    main()
