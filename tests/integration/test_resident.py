"""What a recording that goes on keeps in the program's own memory: not what it has written."""

import os
import time
from pathlib import Path

import numpy as np

import wanhook
from recorded import marks, recorded

CHUNK = 256 * 1024
RECORD = 64
PAGE = 4096
KEPT = 4
DEADLINE = 20.0  # s; a second or two is what it takes


def resident_chunks(file: Path, count: int) -> int:
    """How many of the first ``count`` chunks of ``file`` have pages in this process's page tables."""
    maps = os.fsdecode(Path("/proc/self/maps").read_bytes()).split("\n")
    line = next(line for line in maps if line.endswith(str(file)))
    pages = CHUNK // PAGE
    with open("/proc/self/pagemap", "rb") as table:
        table.seek(int(line.split("-")[0], 16) // PAGE * 8 + 8)  # the file's first page is its header
        entries = np.frombuffer(table.read(8 * pages * count), "<u8").reshape(count, pages)
    return int((entries >> 63).any(axis=1).sum())


def test_full_chunks_leave_the_resident_memory_and_stay_in_the_file(tmp_path):
    count = 200_000
    written = count // (CHUNK // RECORD)
    with recorded(tmp_path / "run") as result:
        for number in range(count):
            wanhook.mark("tick")
            if number % 4_000 == 0:
                time.sleep(0.01)  # no faster than chunks are made ready
        (file,) = (tmp_path / "run").glob("*.wanhook")
        deadline = time.monotonic() + DEADLINE
        # What is left: the chunk of the meta data, of the resolver, and those of this thread that filled up just now.
        while (left := resident_chunks(file, written)) > KEPT and time.monotonic() < deadline:
            time.sleep(0.05)
        wanhook.mark("behind")
    assert written > 10 * KEPT
    assert left <= KEPT
    assert len(marks(result.trace)) == count + 1
