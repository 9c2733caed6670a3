"""Memory of each scope: peaks inside, growth, what it left behind, fragmentation; each occurrence, and by path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.range_maximum import Ranges
from wanhook.tracefile.format import ScopeLevel, ScopeVerify
from wanhook.tracefile.names import MAX_DEPTH

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

STRETCH = 1 << 19  # blocks at a time: columns beside all of them would take as much memory as the events
MAX_OCCURRENCES = 200  # of a stage's path that are listed one by one

# One row a scope, in the order of Trace.scopes. Bytes; `first` and `last` are positions, `external` is -1 where there
# was not enough free memory to speak of its fragmentation.
SCOPE_MEMORY = np.dtype(
    [("first", "i8"), ("last", "i8"), ("allocated_begin", "i8"), ("allocated_end", "i8"), ("allocated_peak", "i8"),
     ("active_peak", "i8"), ("reserved_peak", "i8"), ("slack_peak", "i8"), ("pending_peak", "i8"),
     ("left_behind", "i8"), ("external", "f4")]
)  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """The largest and the mean of a figure over the occurrences of a path, in bytes."""

    max_bytes: int
    mean_bytes: float


@dataclass(frozen=True)
class Occurrence:
    """One stage, from `begin_ns` to `end_ns` after the recording began (host time; None: still open). Bytes; those of
    segments are None on the CPU."""

    begin_ns: int
    end_ns: int | None
    allocated_begin_bytes: int
    allocated_end_bytes: int
    allocated_peak_bytes: int
    active_peak_bytes: int
    reserved_peak_bytes: int | None
    left_behind_bytes: int


@dataclass(frozen=True)
class ScopeMemory:
    """A path on one device. `growth` is allocated bytes at the end less those at the begin, `activation` the peak of
    allocated bytes inside less those at the begin, `left_behind` what the scope and those in it allocated and had not
    freed at its end, `slack` the largest reserved - allocated inside, `pending` the largest active - allocated inside,
    `external_share` the largest external fragmentation inside (None: too little was free), `unused_share` is
    1 - largest active peak / largest reserved peak. What rests on segments is None on the CPU. `instances` lists the
    first MAX_OCCURRENCES of a stage."""

    path: str
    occurrences: int
    allocated_peak: Extent
    active_peak: Extent
    reserved_peak: Extent | None
    growth: Extent
    left_behind: Extent
    activation: Extent
    slack: Extent | None
    pending: Extent
    external_share: float | None
    unused_share: float | None
    instances: list[Occurrence]


def scope_memory(trace: Trace, timeline: AllocatorTimeline) -> np.ndarray:
    """SCOPE_MEMORY[scopes]: the device's memory while each scope of the trace was open, all threads counted."""
    counters = timeline.counters
    out = np.zeros(len(trace.scopes), SCOPE_MEMORY)
    first, last = out["first"], out["last"] = timeline.spans(trace.scopes)
    out["allocated_begin"], out["allocated_end"] = counters["allocated"][first], counters["allocated"][last]
    for name, most in timeline.figures.maxima(Ranges(first, last + 1)).items():
        column = name if name == "external" else name + "_peak"
        if column in SCOPE_MEMORY.names:
            out[column] = most
    out["left_behind"] = _left_behind(trace, timeline, last)
    return out


def _left_behind(trace: Trace, timeline: AllocatorTimeline, last: np.ndarray) -> np.ndarray:
    """Bytes of the blocks that each scope, or a scope in it, allocated and that were not freed at its last position."""
    left = np.zeros(len(last), np.float64)
    if not len(last):
        return left.astype(np.int64)
    parents = trace.scope_rows(trace.scopes["parent"])
    begun, freed, size = (timeline.blocks[name] for name in ("begin", "freed", "size"))
    earliest = _first_to_end(last, parents)
    held, rows = _outlive(trace, timeline.blocks, earliest)
    # Most of what is freed before a scope ends is freed before the one around it ends: few blocks are carried outwards.
    for _ in range(MAX_DEPTH):
        there = (begun[held] <= last[rows]) & (freed[held] > last[rows])
        left += np.bincount(rows[there], size[held[there]], len(left))
        outer = parents[rows]
        held, rows = held[outer >= 0], outer[outer >= 0]
        stays = freed[held] > earliest[rows]
        held, rows = held[stays], rows[stays]
        if not len(held):
            break
    return left.astype(np.int64)


def _first_to_end(last: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """The last position of each scope, or that of a scope around it that ended before it did: what was opened on a
    thread of its own can outlive what it is inside of."""
    outer = np.where(parents >= 0, parents, np.arange(len(parents)))
    for _ in range(MAX_DEPTH):
        earlier = np.minimum(last, last[outer])
        if (earlier == last).all():
            break
        last = earlier
    return last


def _outlive(trace: Trace, blocks: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the blocks that were not freed at the `last` position of their own scope, and the rows of the scopes."""
    held, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    # The number behind the last one is for blocks without a scope, row -1: no scope has left those behind.
    last = np.append(last, np.iinfo(np.int64).max)
    for begin in range(0, len(blocks), STRETCH):
        part = blocks[begin : begin + STRETCH]
        own = trace.scope_rows(np.maximum(part["scope"], 0))
        stays = np.flatnonzero(part["freed"] > last[own])
        held.append(begin + stays)
        rows.append(own[stays])
    return np.concatenate(held), np.concatenate(rows)


def by_path(trace: Trace, timeline: AllocatorTimeline, table: np.ndarray) -> list[ScopeMemory]:
    """table: what `scope_memory` gave. One value a path, in the order of Trace.paths; without the occurrences of whose
    memory nothing is known: muted steps, and those that begin or end where the replay claims nothing."""
    on_gpu = timeline.on_gpu
    known = np.flatnonzero(known_ends(trace, timeline, table))
    scopes, table = trace.scopes[known], table[known]
    order = np.argsort(scopes["path"], kind="stable")
    paths, starts, counts = np.unique(scopes["path"][order], return_index=True, return_counts=True)
    if not len(paths):
        return []
    extent = _extents(order, starts, counts)
    found = {name.removesuffix("_peak"): extent(table[name]) for name in _EXTENTS if name in table.dtype.names}
    growth = extent(table["allocated_end"] - table["allocated_begin"])
    activation = extent(table["allocated_peak"] - table["allocated_begin"])
    external = np.maximum.reduceat(table["external"][order], starts)
    began = trace.header["start_monotonic"]
    return [
        ScopeMemory(
            path=trace.paths[path],
            occurrences=int(counts[at]),
            allocated_peak=found["allocated"][at],
            active_peak=found["active"][at],
            reserved_peak=found["reserved"][at] if on_gpu else None,
            growth=growth[at],
            left_behind=found["left_behind"][at],
            activation=activation[at],
            slack=found["slack"][at] if on_gpu else None,
            pending=found["pending"][at],
            external_share=float(external[at]) if on_gpu and external[at] >= 0 else None,
            unused_share=_unused(found["active"][at], found["reserved"][at]) if on_gpu else None,
            instances=_instances(scopes, table, order[starts[at] : starts[at] + counts[at]], began, on_gpu),
        )
        for at, path in enumerate(paths)
    ]


def known_ends(trace: Trace, timeline: AllocatorTimeline, table: np.ndarray) -> np.ndarray:
    """bool[scopes]: whether the device's memory at the begin and at the end of each scope is known."""
    known = timeline.is_claimed(table["first"]) & timeline.is_claimed(table["last"])
    return known & (trace.scopes["verify"] != ScopeVerify.MUTED)


def _unused(active: Extent, reserved: Extent) -> float | None:
    return 1 - active.max_bytes / reserved.max_bytes if reserved.max_bytes else None


_EXTENTS = ("allocated_peak", "active_peak", "reserved_peak", "left_behind", "slack_peak", "pending_peak")


def _extents(order: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Callable[[np.ndarray], list[Extent]]:
    def extents(values: np.ndarray) -> list[Extent]:
        values = values[order]
        most, sums = np.maximum.reduceat(values, starts), np.add.reduceat(values.astype(np.float64), starts)
        return [Extent(*pair) for pair in zip(most.tolist(), (sums / counts).tolist(), strict=True)]

    return extents


def _instances(scopes, table: np.ndarray, rows: np.ndarray, began: int, on_gpu: bool) -> list[Occurrence]:
    if scopes["level"][rows[0]] != ScopeLevel.STAGE:
        return []
    return [
        Occurrence(
            begin_ns=int(scopes["begin"][row]) - began,
            end_ns=int(scopes["end"][row]) - began if scopes["end"][row] >= 0 else None,
            allocated_begin_bytes=int(table["allocated_begin"][row]),
            allocated_end_bytes=int(table["allocated_end"][row]),
            allocated_peak_bytes=int(table["allocated_peak"][row]),
            active_peak_bytes=int(table["active_peak"][row]),
            reserved_peak_bytes=int(table["reserved_peak"][row]) if on_gpu else None,
            left_behind_bytes=int(table["left_behind"][row]),
        )
        for row in rows[:MAX_OCCURRENCES]
    ]
