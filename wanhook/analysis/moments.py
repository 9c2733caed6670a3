"""A device's memory at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class Moment:
    """A device after one of its events, `at_ns` after the recording began (host time): the path of the scope that the
    event fell into, and bytes as torch defines them. `free_bytes` are those in segments that no block uses,
    `largest_free_bytes` the largest free block. What rests on segments is None on the CPU."""

    at_ns: int
    path: str | None
    requested_bytes: int
    allocated_bytes: int
    active_bytes: int
    reserved_bytes: int | None
    inactive_split_bytes: int | None
    free_bytes: int | None
    largest_free_bytes: int | None


def moment_at(trace: Trace, timeline: AllocatorTimeline, position: int) -> Moment:
    """The moment of a position."""
    row = timeline.counters[position]
    bytes_of = {f"{name}_bytes": int(row[name]) for name in ("requested", "allocated", "active")}
    for name in ("reserved", "inactive_split", "free", "largest_free"):
        bytes_of[f"{name}_bytes"] = int(row[name]) if timeline.on_gpu else None
    at = timeline.time(position) - trace.header["start_monotonic"]
    return Moment(at_ns=at, path=path_of(trace, timeline.scope(position)), **bytes_of)


def path_of(trace: Trace, scope: int) -> str | None:
    """The path of a scope id; None for 0 and for an unknown one."""
    path = int(trace.path_of(np.array([scope]))[0])
    return trace.paths[path] if path >= 0 else None
