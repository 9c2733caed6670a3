"""Failed allocations: what was free, in which pieces, who held the rest, and whether fragmentation was the cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import MAX_POST_MORTEMS, AllocatorTimeline
from wanhook.analysis.memory_owners import Owner, Sources, owners_at
from wanhook.analysis.moments import Moment, moment_at, path_of
from wanhook.tracefile.format import BlockState, SegmentFlags

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_MOST_SMALL = 1 << 20  # bytes: kSmallSize of torch's CUDACachingAllocator


@dataclass(frozen=True)
class FreePieces:
    """Free blocks in the allocator's cache: how many, their bytes, the largest."""

    pieces: int
    bytes: int
    largest_bytes: int


@dataclass(frozen=True)
class PostMortem:
    """What lay where when an allocation failed: free pieces in the cache, those that the request could have used (its
    own stream and pool), the owners of the rest. `verdict` is one of

    - "fragmentation": the free bytes would have been enough, no piece was large enough;
    - "streams": they would have been, with those that belong to other streams and pools;
    - "limit": the device had room, torch was not allowed to take it (set_per_process_memory_fraction);
    - "size": it would not have fitted even if all free memory had been one piece."""

    moment: Moment
    cache: FreePieces
    usable: FreePieces
    verdict: str
    owners: list[Owner]


@dataclass(frozen=True)
class OutOfMemory:
    """An allocation that failed, `at_ns` after the recording began: path, bytes asked for, bytes free on the device
    once the cache had been given back. `post_mortem` is None beyond the first MAX_POST_MORTEMS."""

    at_ns: int
    path: str | None
    requested_bytes: int
    device_free_bytes: int
    post_mortem: PostMortem | None


def out_of_memory(trace: Trace, timeline: AllocatorTimeline) -> list[OutOfMemory]:
    """In the order in which they happened."""
    began = trace.header["start_monotonic"]
    events = timeline.events
    return [
        OutOfMemory(
            at_ns=int(events["time"][row]) - began,
            path=path_of(trace, int(events["scope"][row])),
            requested_bytes=int(events["size"][row]),
            device_free_bytes=int(events["address"][row]),
            post_mortem=_post_mortem(trace, timeline, row) if place < MAX_POST_MORTEMS and timeline.on_gpu else None,
        )
        for place, row in enumerate(timeline.failed.tolist())
    ]


def _post_mortem(trace: Trace, timeline: AllocatorTimeline, row: int) -> PostMortem:
    event = timeline.events[row]
    segments, blocks = timeline.result.address_map(row)
    free = blocks[blocks["state"] == BlockState.INACTIVE]
    home = np.searchsorted(segments["address"], free["address"], "right") - 1
    own = segments[home]
    usable = free[_fits(own, event)] if len(segments) else free[:0]
    cache, could = _pieces(free), _pieces(usable)
    return PostMortem(
        moment=moment_at(trace, timeline, row),
        cache=cache,
        usable=could,
        verdict=verdict(int(event["size"]), cache.bytes, could.bytes, int(event["address"])),
        owners=owners_at(timeline, row, Sources(trace)),
    )


def _fits(segments: np.ndarray, event: np.void) -> np.ndarray:
    """bool[segments]: which are of the stream and the pool that the request was looked for in. torch keeps the segments
    of small requests apart from those of large ones."""
    large = (segments["flags"] & SegmentFlags.LARGE) != 0
    own = (segments["stream"] == event["stream"]) & (segments["pool"] == event["pool"])
    return own & (large == (event["size"] > _MOST_SMALL))


def _pieces(free: np.ndarray) -> FreePieces:
    return FreePieces(len(free), int(free["size"].sum()), int(free["size"].max(initial=0)))


def verdict(asked: int, cached: int, usable: int, device_free: int) -> str:
    """Why a request failed: bytes asked for, free in the cache, of these usable for the request, free on the device."""
    if usable >= asked:
        return "fragmentation"
    if device_free >= asked:
        return "limit"
    if usable + device_free >= asked:
        return "fragmentation"
    return "streams" if cached + device_free >= asked else "size"
