"""Fragmentation of a device's reserved memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.moments import Moment, moment_at

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class Fragmentation:
    """`largest_slack` is the moment of the most reserved - allocated bytes, `most_scattered` that of the largest
    external share (None: never was LEAST_FREE of the reserved bytes free). External share = 1 - largest free block /
    free bytes: at the reserved peak, at the largest slack, and where it was largest. `unused_share` is
    1 - peak active / peak reserved."""

    largest_slack: Moment
    most_scattered: Moment | None
    external_at_reserved_peak: float | None
    external_at_largest_slack: float | None
    largest_external: float | None
    unused_share: float


def fragmentation(trace: Trace, timeline: AllocatorTimeline) -> Fragmentation | None:
    """None on the CPU, and where nothing was ever reserved."""
    if not timeline.on_gpu or not (peak := int(timeline.counters["reserved"][timeline.peak("reserved")])):
        return None
    held, slack, scattered = (timeline.peak(name) for name in ("reserved", "slack", "external"))
    share = timeline.figures.at(np.array([held, slack, scattered]))["external"].tolist()
    known = [value if value >= 0 else None for value in share]
    return Fragmentation(
        largest_slack=moment_at(trace, timeline, slack),
        most_scattered=moment_at(trace, timeline, scattered) if known[2] is not None else None,
        external_at_reserved_peak=known[0],
        external_at_largest_slack=known[1],
        largest_external=known[2],
        unused_share=1 - int(timeline.counters["active"][timeline.peak("active")]) / peak,
    )
