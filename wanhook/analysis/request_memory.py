"""Memory peaks between two moments, by the replay of the allocator's events: no call that resets torch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook import _replay
from wanhook.tracefile.names import section

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_STATE_KNOWN_AGAIN = ("start", "resync", "resume")
_HOST = -1


@dataclass(frozen=True)
class Peaks:
    """Of the device that reserved the most: bytes as torch counts them. None: not known. `reserved_peak` is None on the
    CPU, whose allocator reserves nothing."""

    device: int
    reserved_peak: int | None
    allocated_peak: int | None


class RequestMemory:
    """The replays of one trace, one a device; made once, asked for each request."""

    def __init__(self, trace: Trace) -> None:
        devices = np.unique(trace.allocator_events["device"]).tolist()
        gpus = [device for device in devices if device >= 0]
        self._replays = {device: _counters(trace, device) for device in gpus or devices}
        # Sizes are rounded by settings that this page does not read: then only reserved bytes are certain.
        self._rounds_alike = not section(trace.meta, "allocator").get("settings")

    def peaks(self, begin: int, end: int) -> Peaks | None:
        """The largest bytes from host time `begin` to `end` (ns); None where no allocator was recorded."""
        found = []
        for device, (times, counters) in self._replays.items():
            first, last = np.searchsorted(times, begin, "left"), np.searchsorted(times, end, "right")
            inside = counters[first : last + 1]
            reserved = None if device == _HOST else int(inside["reserved"].max())
            known = self._rounds_alike or device == _HOST
            found.append(Peaks(device, reserved, int(inside["allocated"].max()) if known else None))
        return max(found, key=lambda peaks: peaks.reserved_peak or 0, default=None)


def _counters(trace: Trace, device: int) -> tuple[np.ndarray, np.ndarray]:
    """Times of the device's events (ns, ascending), and the counters behind each: one more."""
    events = trace.allocator_events
    events = events[slice(*np.searchsorted(events["device"], [device, device + 1]))]
    times = np.maximum.accumulate(events["time"])
    states = []
    for found in trace.snapshots:
        if found.device == device and found.complete and found.reason in _STATE_KNOWN_AGAIN:
            column, value = (events["sequence"], found.sequence) if found.sequence > 0 else (times, found.time)
            states.append((int(np.searchsorted(column, value, "right")), found))
    states.sort(key=lambda state: state[0])
    played = _replay.replay(
        events,
        [_replay.KnownState(position, found.segments, found.blocks) for position, found in states],
        _replay.Settings(),
        host=device == _HOST,
        complete_from_start=device == _HOST,
        largest_free=False,
        blocks=False,
    )
    return times, played.counters
