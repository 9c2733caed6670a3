"""The CPU's events against the counters of the recorder's own allocator: is every allocation and every free there?

And are the live blocks those that it knows, wherever it wrote them down?
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.replay_check import ReplayCheck, compare, exact_places, snapshot_places
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
    the allocator counted: a place a sample after the first one, and a place a state that it wrote, with all its blocks.
    Samples around a pause are no place: what happened in it is not to be recorded."""
    samples = trace.allocator_samples[trace.allocator_samples["device"] == timeline.device]
    positions = timeline.positions(samples["time"], "right")
    pauses = trace.gates["time"][~trace.gates["open"]]
    asked = np.flatnonzero(np.diff(np.searchsorted(pauses, samples["time"])) == 0)
    asked = asked[timeline.is_claimed(positions[asked])]
    places = [(int(positions[row + 1]), partial(_counted, timeline, samples, positions, int(row))) for row in asked]
    states = snapshot_places(timeline)
    # A sample just before a pause is a place, the state behind the pause is not.
    claimed = np.append(np.ones(len(places), bool), exact_places(timeline, states))
    check = compare(trace, timeline, [*places, *states], claimed)
    return replace(check, not_claimed=check.not_claimed + max(len(samples) - 1, 0) - len(places))


def _counted(
    timeline: AllocatorTimeline, samples: np.ndarray, positions: np.ndarray, row: int
) -> tuple[str, int, int] | None:
    """The first count that is not the allocator's, between a sample and the next."""
    between = timeline.events["action"][positions[row] : positions[row + 1]]
    for what, (action, name) in _COUNTED.items():
        ours, theirs = int((between == action).sum()), int(samples[name][row + 1]) - int(samples[name][row])
        if ours != theirs:
            return what, ours, theirs
    return None
