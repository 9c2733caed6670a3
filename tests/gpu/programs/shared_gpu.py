"""`shared_gpu RECORDINGS MEETING`: one of two ranks that work on the same GPU at the same time, with no process group.

They meet through files in MEETING, and record to a folder each: with nobody to agree with they are two runs. Says how
torch's counters grew while it recorded, torch's totals at the end, what an independent pair of events inside each spin
took, and how much memory rank 1 gave back to the driver.
"""

import gc
import os
import sys
import time
from pathlib import Path

import torch

from gpu.allocating import counters, growth, random_operations
from gpu.cuda_errors import last_error
from gpu.processes import say
from gpu.spinning import calibrate, nanoseconds, spin, timing_event

HELD = (1 << 30, 3 << 30)  # bytes, by rank
SPINS = 20
OPERATIONS = 1000
PATIENCE = 60.0  # seconds that one waits for the other


class Meeting:
    def __init__(self, folder: str, rank: int):
        self._folder, self._rank = Path(folder), rank

    def at(self, place: str) -> None:
        """Until both are there."""
        (self._folder / f"{place}-{self._rank}").touch()
        other, deadline = self._folder / f"{place}-{1 - self._rank}", time.monotonic() + PATIENCE
        while not other.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {1 - self._rank} never came to {place}")
            time.sleep(0.001)


def watched_spins() -> tuple[list, list[int]]:
    """Pairs of events inside scopes around spins, and when the host saw each of them done (ns, CLOCK_MONOTONIC)."""
    import wanhook

    pairs, done = [], []
    for _ in range(SPINS):
        begin, end = timing_event(), timing_event()
        with wanhook.trace("spin", level="op"):
            begin.record()
            spin(400)
            end.record()
        torch.cuda.synchronize()
        done.append(time.monotonic_ns())
        pairs.append((begin, end))
    return pairs, done


def look(name: str) -> None:
    """A memory sample at the begin of a stage, of what the driver says now: it is not asked twice within 250 ms."""
    import wanhook

    time.sleep(0.3)
    with wanhook.trace(name):
        pass


def work(rank: int, meeting: Meeting) -> dict:
    held = torch.empty(HELD[rank], dtype=torch.uint8, device="cuda")
    meeting.at("held")
    look("both")
    random_operations(seed=rank, count=OPERATIONS)
    pairs, done = watched_spins()
    torch.cuda.empty_cache()
    meeting.at("worked")
    look("before")
    meeting.at("looked before")
    before = torch.cuda.memory_reserved()
    if rank == 1:
        del held
        torch.cuda.empty_cache()
    given_back = before - torch.cuda.memory_reserved()
    meeting.at("given back")
    look("behind")
    meeting.at("looked behind")
    return {"nanoseconds": [nanoseconds(*pair) for pair in pairs], "done": done, "given_back": given_back}


def main(recordings: str, meeting_place: str) -> None:
    import wanhook

    rank = int(os.environ["RANK"])
    torch.cuda.set_device(0)
    calibrate()
    torch.empty(1, device="cuda")  # a device that torch's allocator never served has no state at the start
    torch.cuda.synchronize()
    gc.collect()
    gc.disable()  # nothing is freed in the middle of a count
    meeting = Meeting(meeting_place, rank)
    meeting.at("ready")
    wanhook.start(Path(recordings) / str(rank))
    before = counters()
    with wanhook.trace("request"):
        answer = work(rank, meeting)
    torch.cuda.synchronize()
    answer |= {
        "rank": rank,
        "growth": growth(before),
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "last_error": last_error(),
    }
    wanhook.stop(wait=10)
    say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
