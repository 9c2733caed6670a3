"""Pins: blocks that keep a segment reserved although most of it is free, and who allocated these blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.memory_owners import Source, Sources
from wanhook.analysis.moments import path_of

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

MAX_SEGMENTS = 20  # listed one by one


@dataclass(frozen=True)
class Holder:
    """Blocks of one source in mostly free segments. `alone_bytes` are free bytes of the segments that no other source
    holds with it: they could be given back if it freed its blocks; `shared_bytes` those of segments with others."""

    source: Source
    segments: int
    blocks: int
    live_bytes: int
    alone_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class PinnedSegment:
    """A mostly free segment: its free bytes, the bytes in use, and who uses them, most bytes first."""

    address: int
    bytes: int
    active_bytes: int
    free_bytes: int
    stream: int
    pool: int
    holders: list[Source]


@dataclass(frozen=True)
class Pins:
    """Segments of which less than half is active, at one moment; `when` holds what that moment is, of "reserved peak",
    "largest slack" and "end".

    `pinned_bytes` is what is free in them; `empty_*` are segments without any block in use: nothing pins those, the
    cache keeps them. Expandable segments are not among these: torch can unmap their free pages. `holders` are those of
    the pinned segments, the one that alone holds the most first; `worst` the MAX_SEGMENTS with the most free bytes."""

    when: list[str]
    at_ns: int
    path: str | None
    segments: int
    segment_bytes: int
    pinned_bytes: int
    empty_segments: int
    empty_bytes: int
    holders: list[Holder]
    worst: list[PinnedSegment]


def pins_at(trace: Trace, timeline: AllocatorTimeline, position: int, when: list[str]) -> Pins:
    """The pins at a position of a GPU's timeline."""
    segments = timeline.segments
    there = (segments["begin"] <= position) & (position < segments["end"]) & (segments["expandable"] == 0)
    rows = timeline.alive(position)
    blocks = timeline.blocks[rows]
    blocks = blocks[blocks["segment"] >= 0]
    active = np.bincount(blocks["segment"], blocks["size"], len(segments)).astype(np.int64)
    pinned = there & (active > 0) & (2 * active < segments["size"])
    empty = there & (active == 0)
    blocks = blocks[pinned[blocks["segment"]]]
    free = segments["size"].astype(np.int64) - active
    numbers, sources = Sources(trace).number(blocks["scope"])
    return Pins(
        when=when,
        at_ns=timeline.time(position) - trace.header["start_monotonic"],
        path=path_of(trace, timeline.scope(position)),
        segments=int(pinned.sum()),
        segment_bytes=int(segments["size"][pinned].sum()),
        pinned_bytes=int(free[pinned].sum()),
        empty_segments=int(empty.sum()),
        empty_bytes=int(segments["size"][empty].sum()),
        holders=_holders(blocks, numbers, sources, free),
        worst=_worst(segments, np.flatnonzero(pinned), free, active, blocks, numbers, sources),
    )


def _pairs(blocks: np.ndarray, numbers: np.ndarray, sources: list[Source]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different (segment, source): their segments, their sources, and the bytes of each."""
    keys, place = np.unique(blocks["segment"].astype(np.int64) * max(len(sources), 1) + numbers, return_inverse=True)
    held = np.bincount(place.reshape(-1), blocks["size"], len(keys)).astype(np.int64)
    return keys // max(len(sources), 1), keys % max(len(sources), 1), held


def _holders(blocks: np.ndarray, numbers: np.ndarray, sources: list[Source], free: np.ndarray) -> list[Holder]:
    segment, source, held = _pairs(blocks, numbers, sources)
    several = np.bincount(segment, minlength=len(free))[segment] > 1
    count = len(sources)
    columns = [
        np.bincount(source, minlength=count),
        np.bincount(numbers, minlength=count),
        *(np.bincount(source, weights, count) for weights in (held, np.where(several, 0, free[segment]))),
        np.bincount(source, np.where(several, free[segment], 0), count),
    ]
    rows = zip(sources, *(column.astype(np.int64).tolist() for column in columns), strict=True)
    return sorted((Holder(*row) for row in rows), key=lambda holder: (-holder.alone_bytes, -holder.shared_bytes))


def _worst(segments, pinned, free, active, blocks, numbers, sources) -> list[PinnedSegment]:
    largest = pinned[np.argsort(-free[pinned], kind="stable")[:MAX_SEGMENTS]]
    segment, source, held = _pairs(blocks, numbers, sources)
    found = []
    for row in largest.tolist():
        own = np.flatnonzero(segment == row)
        own = own[np.argsort(-held[own], kind="stable")]
        found.append(
            PinnedSegment(
                address=int(segments["address"][row]),
                bytes=int(segments["size"][row]),
                active_bytes=int(active[row]),
                free_bytes=int(free[row]),
                stream=int(segments["stream"][row]),
                pool=int(segments["pool"][row]),
                holders=[sources[number] for number in source[own].tolist()],
            )
        )
    return found
