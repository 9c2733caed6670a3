"""Segment churn: what each stage took from the device and gave back to it.

How long the device calls took is not said: the allocator's events carry one tick each, taken when a segment is there
or about to go, and no event marks the begin of the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.stages import stage_paths
from wanhook.tracefile.format import AllocatorAction

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_ACTIONS = {
    AllocatorAction.SEGMENT_ALLOC: "mallocs",
    AllocatorAction.SEGMENT_FREE: "frees",
    AllocatorAction.SEGMENT_MAP: "maps",
    AllocatorAction.SEGMENT_UNMAP: "unmaps",
}


@dataclass(frozen=True)
class StageChurn:
    """Segments that a stage, without the stages inside of it, took from the device (cudaMalloc), gave back (cudaFree),
    mapped and unmapped (expandable segments): how many, and their bytes. `path` is None outside of stages."""

    path: str | None
    mallocs: int
    malloc_bytes: int
    frees: int
    free_bytes: int
    maps: int
    map_bytes: int
    unmaps: int
    unmap_bytes: int


def segment_churn(trace: Trace, timeline: AllocatorTimeline) -> list[StageChurn]:
    """Stages with any, those that moved the most bytes first."""
    action = timeline.events["action"]
    rows = np.flatnonzero((action >= min(_ACTIONS)) & (action <= max(_ACTIONS)))
    events = timeline.events[rows]
    paths, place = np.unique(stage_paths(trace, events["scope"]), return_inverse=True)
    place = place.reshape(-1)
    columns: dict[str, list[int]] = {}
    for number, name in _ACTIONS.items():
        own = events["action"] == number
        columns[name] = np.bincount(place[own], minlength=len(paths)).tolist()
        moved = np.bincount(place[own], events["size"][own].astype(np.float64), len(paths))
        columns[name[:-1] + "_bytes"] = moved.astype(np.int64).tolist()
    found = [
        StageChurn(trace.paths[path] if path >= 0 else None, *values)
        for path, *values in zip(paths.tolist(), *columns.values(), strict=True)
    ]
    return sorted(found, key=lambda row: -(row.malloc_bytes + row.free_bytes + row.map_bytes + row.unmap_bytes))
