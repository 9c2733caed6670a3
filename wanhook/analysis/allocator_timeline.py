"""One device's allocator over the whole recording: its replay, and where times, scopes and snapshots lie in it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_figures import Figures
from wanhook.analysis.device_replay import DeviceReplay
from wanhook.tracefile.format import AllocatorAction

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

# Scope ids that the replay gives to blocks and segments that no event of this recording made.
BEFORE_RECORDING, NOT_RECORDED = -1, -2

MAX_POST_MORTEMS = 16  # failed allocations whose address map is kept


class AllocatorTimeline(DeviceReplay):
    """A replay with what the memory figures need of it.

    `counters`, `blocks` and `segments` are those of wanhook._replay, `figures` what follows from the counters. `start`
    is the position at which a snapshot first gave the state, else 0. `failed` are the indexes of the OOM events; for
    the first MAX_POST_MORTEMS of them `result.address_map(index)` is there. The CPU (`on_gpu` false) has no segments:
    reserved, free and largest_free mean nothing there.
    """

    def __init__(self, trace: Trace, device: int) -> None:
        events = trace.allocator_events
        first, last = np.searchsorted(events["device"], [device, device + 1])
        self.failed = np.flatnonzero(events["action"][first:last] == AllocatorAction.OOM)
        super().__init__(trace, device, maps_at=self.failed[:MAX_POST_MORTEMS].tolist())
        self.on_gpu = device >= 0
        self.start = self.first_known[0] if self.first_known else 0
        self.counters, self.blocks, self.segments = self.result.counters, self.result.blocks, self.result.segments
        self.figures = Figures(self.counters, self.events, self.on_gpu, unclaimed=self.unclaimed)

    def times(self, positions: np.ndarray) -> np.ndarray:
        """Host times (ns) at which positions were reached, int64, the shape of positions; see `time` for position 0."""
        if not len(self._times):
            return np.full(len(positions), self.time(0))
        return np.where(positions > 0, self._times[np.maximum(positions, 1) - 1], self.time(0))

    def time(self, position: int) -> int:
        """Host time (ns) at which a position was reached; position 0 with the first known state or event."""
        known = position or self.first_known or not len(self._times)
        return super().time(position) if known else int(self._times[0])

    def scope(self, position: int) -> int:
        """The scope id of the event that led to a position, 0 where there is none."""
        return int(self.events["scope"][position - 1]) if position else 0

    def peak(self, name: str) -> int:
        """The position from `start` on, of those that are claimed, at which a figure (allocator_figures.Figures) first
        is the largest; a segment is there for a block, so the peak of reserved is that with the block in it."""
        found = self._peaks[name]
        begin, end = self.figures.growing
        held = end[(begin <= found) & (found < end)]
        return int(held[0]) if name == "reserved" and len(held) else found

    @cached_property
    def _peaks(self) -> dict[str, int]:
        return self.figures.peaks(self.start)

    def alive(self, position: int) -> np.ndarray:
        """Rows of the blocks that are live or wait for their free at a position (int64[n])."""
        # Rows are in order of begin, and most of a long recording's blocks are gone by any moment.
        begun = int(np.searchsorted(self.blocks["begin"], position, "right"))
        return np.flatnonzero(self.blocks["end"][:begun] > position)

    def spans(self, scopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last position of each scope (tables.SCOPE[n]); both belong to it. What was open before the state
        was known begins, as far as memory is concerned, with it."""
        end = np.where(scopes["end"] >= 0, self.positions(scopes["end"], "right"), len(self.events))
        begin = np.maximum(self.positions(scopes["begin"], "left"), self.start)
        return begin, np.maximum(begin, end)
