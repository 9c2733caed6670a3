"""Memory peaks between two moments, by the replay of the allocator's events: no call that resets torch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.device_replay import DeviceReplay

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

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
        self._replays = {
            device: DeviceReplay(trace, device, largest_free=False, blocks=False) for device in gpus or devices
        }

    def peaks(self, begin: int, end: int) -> Peaks | None:
        """The largest bytes from host time `begin` to `end` (ns); None where no allocator was recorded."""
        found = []
        for device, replay in self._replays.items():
            first, last = replay.positions(np.array([begin]), "left")[0], replay.positions(np.array([end]), "right")[0]
            inside = replay.result.counters[first : last + 1]
            # Reserved bytes follow from a known state and the events; what a block takes, from the settings too.
            reserved = None if device == _HOST or not replay.known else int(inside["reserved"].max())
            known = not replay.refused or device == _HOST
            if any(low <= last and high > first for low, high in replay.unclaimed):
                reserved, known = None, False
            found.append(Peaks(device, reserved, int(inside["allocated"].max()) if known else None))
        return max(found, key=lambda peaks: peaks.reserved_peak or 0, default=None)
