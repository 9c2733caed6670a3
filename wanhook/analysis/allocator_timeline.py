"""One device's allocator over the whole recording: its replay, and where times, scopes and snapshots lie in it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.device_replay import DeviceReplay
from wanhook.tracefile.format import AllocatorAction

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

# Scope ids that the replay gives to blocks and segments that no event of this recording made.
BEFORE_RECORDING, NOT_RECORDED = -1, -2

MAX_POST_MORTEMS = 16  # failed allocations whose address map is kept
# External fragmentation of less free memory than this share of the reserved bytes is said of nothing: two free blocks
# of 512 bytes in a full gigabyte are no fragmentation to act upon.
LEAST_FREE = 0.05
STRETCH = 1 << 19  # rows worked on at a time where columns beside them would take as much memory as the events


class AllocatorTimeline(DeviceReplay):
    """A replay with what the memory figures need of it.

    `counters`, `blocks` and `segments` are those of wanhook._replay. `start` is the position at which a snapshot first
    gave the state, else 0. `failed` are the indexes of the OOM events; for the first MAX_POST_MORTEMS of them
    `result.address_map(index)` is there. The CPU (`on_gpu` false) has no segments: reserved, free and largest_free mean
    nothing there.
    """

    def __init__(self, trace: Trace, device: int) -> None:
        events = trace.allocator_events
        first, last = np.searchsorted(events["device"], [device, device + 1])
        self.failed = np.flatnonzero(events["action"][first:last] == AllocatorAction.OOM)
        super().__init__(trace, device, maps_at=self.failed[:MAX_POST_MORTEMS].tolist())
        self.on_gpu = device >= 0
        self.start = self.known[0][0] if self.known else 0
        self._peaks: dict[str, int] = {}
        self.counters, self.blocks, self.segments = self.result.counters, self.result.blocks, self.result.segments

    @cached_property
    def external_share(self) -> np.ndarray:
        """External fragmentation, 1 - largest free block / free bytes, at each position (float32, shape (positions,));
        -1 where less than LEAST_FREE of the reserved bytes is free."""
        share = np.full(len(self.counters), -1, np.float32)
        for begin in range(0, len(share), STRETCH):
            part = self.counters[begin : begin + STRETCH]
            rows = np.flatnonzero((part["free"] > 0) & (part["free"] >= LEAST_FREE * part["reserved"]))
            share[begin + rows] = 1 - part["largest_free"][rows] / part["free"][rows]
        return self._settled(share)

    def times(self, positions: np.ndarray) -> np.ndarray:
        """Host times (ns) at which positions were reached, int64, the shape of positions; see `time` for position 0."""
        if not len(self._times):
            return np.full(len(positions), self.time(0))
        return np.where(positions > 0, self._times[np.maximum(positions, 1) - 1], self.time(0))

    def time(self, position: int) -> int:
        """Host time (ns) at which a position was reached; position 0 with the first known state or event."""
        known = position or self.known or not len(self._times)
        return super().time(position) if known else int(self._times[0])

    def scope(self, position: int) -> int:
        """The scope id of the event that led to a position, 0 where there is none."""
        return int(self.events["scope"][position - 1]) if position else 0

    def figure(self, name: str) -> np.ndarray:
        """A counter, "slack" (reserved - allocated), "pending" (active - allocated) or "external" at each position."""
        if name == "external":
            return self.external_share
        if name == "slack":
            return self._settled(self.counters["reserved"] - self.counters["allocated"])
        return self.counters["active"] - self.counters["allocated"] if name == "pending" else self.counters[name]

    def peak(self, name: str) -> int:
        """The position from `start` on at which a figure first is the largest; a segment is there for a block, so the
        peak of reserved is that with the block in it."""
        if name not in self._peaks:
            found = self.start + int(np.argmax(self.figure(name)[self.start :]))
            begin, end = self._growing
            held = end[(begin <= found) & (found < end)]
            self._peaks[name] = int(held[0]) if name == "reserved" and len(held) else found
        return self._peaks[name]

    @cached_property
    def _growing(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions begin[i] to end[i] - 1 lie behind the events that made or mapped segments for the block that
        the next event, at end[i], allocates. The allocator's lock is held between: nothing can see these states."""
        action = self.events["action"]
        grows = (action == AllocatorAction.SEGMENT_ALLOC) | (action == AllocatorAction.SEGMENT_MAP)
        rows = np.flatnonzero(grows)
        first = rows[np.append(True, np.diff(rows) > 1)[: len(rows)]]
        last = rows[np.append(np.diff(rows) > 1, True)[: len(rows)]]
        followed = np.flatnonzero(last + 1 < len(action))
        followed = followed[action[last[followed] + 1] == AllocatorAction.ALLOC]
        return first[followed] + 1, last[followed] + 2

    def _settled(self, values: np.ndarray) -> np.ndarray:
        """The values, shape (positions,), with those of states that nothing can see put to the one before them."""
        begin, end = self._growing
        length = end - begin
        hidden = np.repeat(begin, length) + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        values[hidden] = np.repeat(values[begin - 1], length)
        return values

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
