"""The CPU's events against the counters of the recorder's own allocator: is every allocation and every free there?

The bytes need no check of their own: an allocation's size is recorded as it was asked for, and a free is joined to it
by address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.replay_check import Difference, ReplayCheck
from wanhook.tracefile.format import AllocatorAction

if TYPE_CHECKING:
    from wanhook.analysis.allocator_timeline import AllocatorTimeline
    from wanhook.tracefile.model import Trace

_COUNTED = {
    "allocations": (AllocatorAction.ALLOC, "device_allocs"),
    "frees": (AllocatorAction.FREE_REQUESTED, "device_frees"),
}


def twin_check(trace: Trace, timeline: AllocatorTimeline) -> ReplayCheck:
    """Between each two neighbouring samples the allocations and frees that were recorded are compared with those that
    the allocator counted: a place a sample after the first one. Samples around a pause are no place: what happened in
    it is not to be recorded."""
    samples = trace.allocator_samples[trace.allocator_samples["device"] == timeline.device]
    positions = timeline.positions(samples["time"], "right")
    pauses = trace.gates["time"][~trace.gates["open"]]
    paused = np.searchsorted(pauses, samples["time"])
    asked = np.flatnonzero(np.diff(paused) == 0)
    right, first = np.ones(len(asked), bool), None
    for what, (action, name) in _COUNTED.items():
        seen = np.append(0, np.cumsum(timeline.events["action"] == action))[positions]
        ours, theirs = np.diff(seen)[asked], np.diff(samples[name].astype(np.int64))[asked]
        wrong = np.flatnonzero(ours != theirs)
        right[wrong] = False
        if len(wrong) and (first is None or wrong[0] < first[0]):
            first = int(wrong[0]), what, int(ours[wrong[0]]), int(theirs[wrong[0]])
    return ReplayCheck(
        places=len(asked),
        equal=int(right.sum()),
        not_claimed=len(samples) - 1 - len(asked) if len(samples) else 0,
        first_difference=_difference(trace, timeline, positions, asked, first),
        refused=[],
        contradictions=timeline.result.contradiction_count,
    )


def _difference(
    trace: Trace, timeline: AllocatorTimeline, positions: np.ndarray, asked: np.ndarray, first: tuple | None
) -> Difference | None:
    if first is None:
        return None
    place, what, ours, theirs = first
    position = int(positions[asked[place] + 1])
    return Difference(position, timeline.time(position) - trace.header["start_monotonic"], what, ours, theirs)
