"""First occurrences: what a process does for the first time is warm-up, whichever of its recordings saw it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.ranks import rank_of
from wanhook.tracefile.names import section

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


def first_occurrences(traces: Sequence[Trace], numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Which rows are the first of their number in their process: bool, a table a trace.

    `traces` in the order of a Run. `numbers`: what occurred in each trace, in order of time (int64[n], 0 or more); one
    number means the same in all traces.
    """
    count = 1 + max((int(each.max()) for each in numbers if len(each)), default=-1)
    seen: dict[int, np.ndarray] = {}
    found = []
    for process, occurred in zip(_processes(traces), numbers, strict=True):
        row = np.full(count, -1)
        row[occurred[::-1]] = np.arange(len(occurred))[::-1]
        before = seen.setdefault(process, np.zeros(count, bool))
        first = np.zeros(len(occurred), bool)
        first[row[(row >= 0) & ~before]] = True
        before |= row >= 0
        found.append(first)
    return found


def _processes(traces: Sequence[Trace]) -> Iterator[int]:
    """A number for each trace, the same for the recordings of one process. One that counts its recordings from 0 again
    is another process, whatever its id."""
    latest: dict[tuple, tuple[int, int]] = {}
    for number, trace in enumerate(traces):
        about = section(trace.meta, "process")
        life, who = int(trace.header["life"]), (rank_of(trace), trace.header["pid"], str(about.get("host")))
        before, process = latest.get(who, (life, number))
        latest[who] = life, process if life > before else number
        yield latest[who][1]
