"""Growth from step to step: stages that recur and leave allocated memory behind each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.memory_by_scope import known_ends
from wanhook.analysis.memory_owners import Owner, Sources, owners_of
from wanhook.tracefile.format import ScopeLevel, ScopeType
from wanhook.tracefile.names import MAX_DEPTH

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

LEAST_OCCURRENCES = 4
LEAST_GROWTH = 64 << 10  # bytes an occurrence; a few kept scalars are nobody's trouble
_MOST_OF = 0.75  # of the differences have to be growth


@dataclass(frozen=True)
class Leak:
    """A recurring stage after which more is allocated each time: `growth_bytes` is the median difference between the
    ends of consecutive occurrences, `total_bytes` that between the first and the last. `owners` are the blocks that the
    second and later occurrences allocated and that are still allocated at the end of the last one."""

    path: str
    occurrences: int
    growth_bytes: int
    total_bytes: int
    owners: list[Owner]


def leaks(trace: Trace, timeline: AllocatorTimeline, table: np.ndarray) -> list[Leak]:
    """table: memory_by_scope.SCOPE_MEMORY of the trace's scopes. Those that grew the most in all first, the outer
    before the inner. A leak is steady: the median difference is LEAST_GROWTH or more, three of four are growth."""
    scopes = trace.scopes
    # What is still open has not ended: what it holds at the moment is no growth.
    known = known_ends(trace, timeline, table) & ~scopes["open"]
    stages = np.flatnonzero((scopes["level"] == ScopeLevel.STAGE) & (scopes["type"] == ScopeType.TRACE))
    stages = stages[np.argsort(scopes["path"][stages], kind="stable")]
    paths, starts, counts = np.unique(scopes["path"][stages], return_index=True, return_counts=True)
    found = []
    for path, start, count in zip(paths.tolist(), starts.tolist(), counts.tolist(), strict=True):
        rows = stages[start : start + count]
        numbers = np.flatnonzero(known[rows])
        rows, count = rows[numbers], len(numbers)
        ends = table["allocated_end"][rows]
        differences = np.diff(ends) / np.diff(numbers)  # an occurrence, of those in between that are not known too
        if count < LEAST_OCCURRENCES or np.median(differences) < LEAST_GROWTH:
            continue
        if (differences > 0).mean() >= _MOST_OF:
            owners = _stayed(trace, timeline, rows[1:], int(table["last"][rows[-1]]))
            growth, total = int(np.median(differences)), int(ends[-1] - ends[0])
            found.append(Leak(trace.paths[path], count, growth, total, owners))
    return sorted(found, key=lambda leak: (-leak.total_bytes, len(leak.path)))


def _stayed(trace: Trace, timeline: AllocatorTimeline, rows: np.ndarray, position: int) -> list[Owner]:
    """Owners of the blocks that these scopes, or scopes in them, allocated and that are allocated at a position."""
    blocks = timeline.blocks[timeline.alive(position)]
    blocks = blocks[blocks["freed"] > position]
    parents = trace.scope_rows(trace.scopes["parent"])
    wanted = np.zeros(len(trace.scopes) + 1, bool)  # the last one stands for "no scope"
    wanted[rows] = True
    at = trace.scope_rows(np.maximum(blocks["scope"], 0))
    inside = wanted[at]
    for _ in range(MAX_DEPTH):
        at = np.where(at >= 0, parents[at], -1)
        if (at < 0).all():
            break
        inside |= wanted[at]
    return owners_of(blocks[inside], position, Sources(trace))
