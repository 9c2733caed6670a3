"""How fast allocator events are replayed, and in how much memory: `python benchmarks/replay.py [events]`.

A made-up program runs over and over (10 000 000 events unless told): 1500 blocks that stay, and some 300 that come and
go, of which a twentieth waits for its free; small and large ones. Once for default settings, once for expandable
segments; the counters alone, and with block lives and the largest free block. One process each, so that the peak of
resident memory is the replay's own. Prints, decides nothing.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MIB = 1 << 20
STAY, LIVE, PERIOD = 1_500, 300, 8_000  # blocks, blocks, allocations in a period
ROUNDS = 5


def period(expandable: bool) -> tuple[np.ndarray, np.ndarray]:
    """Events that lead to a state, and events that lead from there back to it."""
    from made_events import MadeAllocator

    allocator = MadeAllocator(expandable=expandable, watched=False)
    chosen = random.Random(1)
    for _ in range(STAY):
        allocator.alloc(size(chosen))
    ends = []
    for _ in range(3):  # the first time the segments are made, the second time nothing is left to be made
        run_program(allocator, random.Random(2))
        ends.append(len(allocator.events()))
    events = allocator.events()
    return events[: ends[1]], events[ends[1] :]


def size(chosen: random.Random) -> int:
    return int(2 ** chosen.uniform(9, 24))


def run_program(allocator, chosen: random.Random) -> None:
    live, waiting = [], []
    for _ in range(PERIOD):
        live.append(allocator.alloc(size(chosen)))
        if len(live) > LIVE:
            block = live.pop(chosen.randrange(len(live)))
            deferred = chosen.random() < 0.05
            allocator.free(block, deferred=deferred)
            waiting += [block] * deferred
        while len(waiting) > 20:
            allocator.complete(waiting.pop(0))
    for block in live:
        allocator.free(block)
    for block in waiting:
        allocator.complete(block)


def made_events(count: int, expandable: bool) -> np.ndarray:
    first, again = period(expandable)
    events = np.concatenate([first, np.tile(again, -(-count // len(again)))])[:count]
    folded = (events["flags"] != 0).astype(np.uint64)
    events["sequence"] = 1 + np.arange(len(events), dtype=np.uint64) + np.cumsum(folded) - folded
    return events


def measure(count: int, expandable: bool, full: bool) -> None:
    from wanhook import _replay

    events = made_events(count, expandable)
    settings = _replay.Settings(expandable_segments=expandable)
    before, seconds = resident(), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        found = _replay.replay(events, [], settings, complete_from_start=True, largest_free=full, blocks=full)
        seconds.append(time.perf_counter() - began)
        assert found.contradiction_count == 0
        assert found.exact["inexact_from"][-1] == len(events) + 1
        del found
    peak = resident(peak=True) - before
    print(
        f"{'expandable segments' if expandable else 'default settings':20} "
        f"{'with lives and largest free block' if full else 'counters alone':34} "
        f"{len(events) / min(seconds) / 1e6:5.1f} M events/s (slowest round {len(events) / max(seconds) / 1e6:.1f}), "
        f"memory {peak / events.nbytes:.2f} x the events"
    )


def resident(peak: bool = False) -> int:
    """Resident bytes now; the most since the last call for now."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        measure(int(arguments[1]), arguments[2] == "expandable", arguments[3] == "full")
        return
    count = arguments[0] if arguments else "10000000"
    for settings in ("default", "expandable"):
        for what in ("counters", "full"):
            subprocess.run([sys.executable, __file__, "--one", count, settings, what], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
