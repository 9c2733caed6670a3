"""One device's allocator over the whole recording: what was live and reserved at every position of its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.block_lifetimes import BEFORE_RECORDING, MOST_BYTES, NOT_RECORDED, Epoch, lifetimes
from wanhook.analysis.range_maximum import range_maximum
from wanhook.tracefile.format import AllocatorAction, BlockState

if TYPE_CHECKING:
    from wanhook.tracefile.model import Snapshot, Trace

_STATE_KNOWN_AGAIN = ("start", "resync", "resume")
_SEGMENT_SIGNS = {
    AllocatorAction.SEGMENT_ALLOC: 1,
    AllocatorAction.SEGMENT_MAP: 1,
    AllocatorAction.SEGMENT_FREE: -1,
    AllocatorAction.SEGMENT_UNMAP: -1,
}


class AllocatorTimeline:
    """Position p is the state after the first p events; there are len(events) + 1 positions.

    `live` is requested bytes, int64, shape (positions,), as torch counts requested_bytes. `reserved_positions` and
    `reserved_values` are the steps of the reserved bytes, the first at position 0; None on the CPU, which reserves
    nothing. `start` is the position at which a snapshot first gave the state (`base_known`), else 0. `checks` are
    (position, snapshot) of the states that were written only to be compared with.
    """

    def __init__(self, trace: Trace, device: int) -> None:
        events = trace.allocator_events
        # Sorted by device: a slice is a view, where a mask would copy gigabytes.
        begin, end = np.searchsorted(events["device"], [device, device + 1])
        self.device = device
        self.events = events[begin:end]
        self._times = np.maximum.accumulate(self.events["time"])
        whole = [found for found in trace.snapshots if found.device == device and found.complete]
        states = sorted(((self._position_of(found), found) for found in whole), key=lambda state: state[0])
        bases = [state for state in states if state[1].reason in _STATE_KNOWN_AGAIN]
        self.checks = [state for state in states if state[1].reason not in _STATE_KNOWN_AGAIN]
        self.base_known = bool(bases)
        self.start = bases[0][0] if bases else 0
        self._start_time = bases[0][1].time if bases else int(self._times[0]) if len(self._times) else -1
        epochs = self._epochs(bases)
        self.lives = lifetimes(self.events, epochs)
        self.live = self.lives.live_bytes(len(self.events) + 1)
        self.reserved_positions, self.reserved_values = (None, None) if device < 0 else self._reserved_steps(epochs)

    def positions(self, times: np.ndarray, side: str) -> np.ndarray:
        """Positions at host times (ns): "left" before the events of that very time, "right" after them."""
        return np.searchsorted(self._times, times, side)

    def time(self, position: int) -> int:
        """Host time (ns) at which a position was reached; -1 where nothing was recorded."""
        return int(self._times[position - 1]) if position else self._start_time

    def scope(self, position: int) -> int:
        """The scope id of the event that led to a position, 0 where there is none."""
        return int(self.events["scope"][position - 1]) if position else 0

    def reserved(self, positions: np.ndarray) -> np.ndarray:
        """Reserved bytes at positions, int64."""
        return self.reserved_values[np.searchsorted(self.reserved_positions, positions, "right") - 1]

    def largest_live(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The most live bytes at the positions first[i] to last[i], both included."""
        return range_maximum(self.live, first, last + 1)

    def largest_reserved(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The most reserved bytes at the positions first[i] to last[i], both included."""
        begin = np.searchsorted(self.reserved_positions, first, "right") - 1
        return range_maximum(self.reserved_values, begin, np.searchsorted(self.reserved_positions, last, "right"))

    def reserved_peak(self) -> int:
        """The position at which reserved bytes first reached their maximum."""
        return int(self.reserved_positions[np.argmax(self.reserved_values)])

    def _position_of(self, snapshot: Snapshot) -> int:
        if snapshot.sequence > 0:
            return int(np.searchsorted(self.events["sequence"], snapshot.sequence, "right"))
        return int(np.searchsorted(self._times, snapshot.time, "right"))

    def _epochs(self, bases: list[tuple[int, Snapshot]]) -> list[Epoch]:
        nothing = np.empty(0, np.int64)
        starts = [position for position, _ in bases] + [len(self.events)]
        epochs = [] if starts[0] == 0 and bases else [Epoch(0, starts[0], None, nothing, nothing, nothing)]
        for (position, found), end in zip(bases, starts[1:], strict=True):
            blocks = found.blocks[found.blocks["state"] != BlockState.INACTIVE]
            owner = BEFORE_RECORDING if found.reason == "start" else NOT_RECORDED
            epochs.append(
                Epoch(
                    begin=position,
                    end=end,
                    reserved=min(found.reserved, MOST_BYTES),
                    address=blocks["address"].astype(np.int64),
                    size=np.minimum(blocks["requested"], MOST_BYTES).astype(np.int64),
                    scope=np.where(blocks["scope"] > 0, blocks["scope"].astype(np.int64), owner),
                )
            )
        return epochs

    def _reserved_steps(self, epochs: list[Epoch]) -> tuple[np.ndarray, np.ndarray]:
        action = self.events["action"]
        rows = np.flatnonzero((action >= min(_SEGMENT_SIGNS)) & (action <= max(_SEGMENT_SIGNS)))
        grown = np.isin(action[rows], [a for a, sign in _SEGMENT_SIGNS.items() if sign > 0])
        sizes = np.minimum(self.events["size"][rows], MOST_BYTES).astype(np.int64)
        change = np.where(grown, sizes, -sizes)
        positions, values = [], []
        for number, epoch in enumerate(epochs):
            inside = slice(*np.searchsorted(rows, [epoch.begin, epoch.end]))
            total = int(change[inside].sum())
            # Before the first snapshot the state follows backwards from it.
            behind = epochs[number + 1].reserved - total if number + 1 < len(epochs) else 0
            base = behind if epoch.reserved is None else epoch.reserved
            positions.append(np.concatenate([[epoch.begin], rows[inside] + 1]))
            values.append(np.concatenate([[base], base + np.cumsum(change[inside])]))
        return np.concatenate(positions), np.concatenate(values)
