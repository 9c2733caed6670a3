"""Deferred frees: memory that was freed and cannot be used again, because another stream may still read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.durations import Durations, summarise
from wanhook.analysis.memory_owners import Source, Sources
from wanhook.analysis.moments import Moment, moment_at

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class Deferring:
    """Deferred frees of the blocks of one source: how many, their bytes together, how long they waited."""

    source: Source
    frees: int
    bytes: int
    wait_mean_ns: float
    wait_max_ns: int


@dataclass(frozen=True)
class DeferredFrees:
    """`peak` is the moment at which the most bytes waited (`peak_bytes` = active - allocated). `frees` were deferred
    and completed, `bytes` are those of their blocks, `unfinished` still waited at the end. `wait` is the host time from
    a free to its completion, which torch looks for when it allocates: so an upper bound of what the GPU needed.
    `sources` by who allocated the blocks, most bytes first."""

    peak_bytes: int
    peak: Moment
    frees: int
    bytes: int
    unfinished: int
    wait: Durations
    sources: list[Deferring]


def deferred_frees(trace: Trace, timeline: AllocatorTimeline) -> DeferredFrees | None:
    """None where no free was deferred."""
    blocks, last = timeline.blocks, len(timeline.counters)
    # What a known state first tells of as waiting was freed nobody knows when; its snapshot event is no free.
    told = [position for position, found in timeline.known if found.sequence > 0]
    seen = (blocks["freed"] > blocks["begin"]) & ~np.isin(blocks["freed"], told)
    waited = np.flatnonzero((blocks["end"] > blocks["freed"]) & seen)
    if not len(waited):
        return None
    blocks = blocks[waited]
    ended = blocks[blocks["end"] < last]
    peak = moment_at(trace, timeline, timeline.peak("pending"))
    wait = timeline.times(ended["end"]) - timeline.times(ended["freed"])
    return DeferredFrees(
        peak_bytes=peak.active_bytes - peak.allocated_bytes,
        peak=peak,
        frees=len(ended),
        bytes=int(ended["size"].sum()),
        unfinished=len(blocks) - len(ended),
        wait=summarise(wait, np.zeros(len(wait), bool)),
        sources=_by_source(trace, ended, wait),
    )


def _by_source(trace: Trace, blocks: np.ndarray, wait: np.ndarray) -> list[Deferring]:
    numbers, sources = Sources(trace).number(blocks["scope"])
    count = np.bincount(numbers, minlength=len(sources))
    moved, total = (np.bincount(numbers, weights, len(sources)) for weights in (blocks["size"], wait))
    longest = np.zeros(len(sources), np.int64)
    np.maximum.at(longest, numbers, wait)
    found = [
        Deferring(source, int(count[at]), int(moved[at]), float(total[at] / count[at]), int(longest[at]))
        for at, source in enumerate(sources)
    ]
    return sorted(found, key=lambda row: -row.bytes)
