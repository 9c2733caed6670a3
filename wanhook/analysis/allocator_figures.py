"""Figures that follow from an allocator's counters at every position, worked out a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wanhook.analysis.range_maximum import Ranges
from wanhook.tracefile.format import AllocatorAction

# External fragmentation of less free memory than this share of the reserved bytes is said of nothing: two free blocks
# of 512 bytes in a full gigabyte are no fragmentation to act upon.
LEAST_FREE = 0.05
STRETCH = 1 << 15  # positions: their counters stay in the processor's cache while all figures are taken from them


class Figures:
    """counters: wanhook._replay.COUNTERS, shape (positions,). events: those of the device. Figures in bytes: the
    counters `requested`, `allocated`, `active`, `pending` = active - allocated, and on a GPU `reserved`,
    `slack` = reserved - allocated, `external` = 1 - largest free block / free bytes (float32, -1: too little is free).

    Slack and external fragmentation of a state that nothing can see are those of the one before it. Positions in
    `unclaimed` ([begin, end), ascending) are no place for a peak: there, all figures are -1.
    """

    def __init__(
        self,
        counters: np.ndarray,
        events: np.ndarray,
        on_gpu: bool,
        stretch: int = STRETCH,
        unclaimed: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._counters, self._on_gpu, self._stretch, self._unclaimed = counters, on_gpu, stretch, unclaimed
        self.growing = _growing(events["action"])
        begin, end = self.growing
        length = end - begin
        self._hidden = (
            np.repeat(begin, length) + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        )
        self._before = np.repeat(begin - 1, length)

    def at(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Figures at positions (int64[n])."""
        found = self._of(self._counters[positions])
        place = np.searchsorted(self._hidden, positions)
        hidden = np.flatnonzero(np.append(self._hidden, -1)[place] == positions)
        self._put_before(found, hidden, place[hidden])
        return found

    def peaks(self, start: int) -> dict[str, int]:
        """The first position from `start` on at which each figure is the largest."""
        best: dict[str, tuple[float, int]] = {}
        for first, figures in self.stretches(start):
            for name, values in figures.items():
                place = int(np.argmax(values))
                if name not in best or values[place] > best[name][0]:
                    best[name] = values[place], first + place
        return {name: position for name, (_, position) in best.items()}

    def maxima(self, ranges: Ranges) -> dict[str, np.ndarray]:
        """The largest value of each figure in each of the ranges of positions."""
        pieces: dict[str, np.ndarray] = {}
        for first, figures in self.stretches(0):
            for name, values in figures.items():
                if name not in pieces:
                    pieces[name] = ranges.pieces(values.dtype)
                ranges.reduce(pieces[name], first, values)
        return {name: ranges.maximum(found) for name, found in pieces.items()}

    def stretches(self, start: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(first position, figures from it on) for all positions from `start` on."""
        for first in range(start, len(self._counters), self._stretch):
            part = self._counters[first : first + self._stretch]
            found = self._of(part)
            begin, end = np.searchsorted(self._hidden, [first, first + len(part)])
            self._put_before(found, self._hidden[begin:end] - first, np.arange(begin, end))
            yield first, self._without_estimates(found, first, first + len(part))

    def _without_estimates(self, found: dict[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
        # The columns can be views of the counters, so they are copied before anything is written.
        touched = [(max(low, first), min(high, last)) for low, high in self._unclaimed if low < last and high > first]
        if touched:
            found = {name: values.copy() for name, values in found.items()}
        for low, high in touched:
            for values in found.values():
                values[low - first : high - first] = -1
        return found

    def _put_before(self, found: dict[str, np.ndarray], rows: np.ndarray, hidden: np.ndarray) -> None:
        if self._on_gpu and len(rows):
            before = self._of(self._counters[self._before[hidden]])
            for name in ("slack", "external"):
                found[name][rows] = before[name]

    def _of(self, counters: np.ndarray) -> dict[str, np.ndarray]:
        found = {name: counters[name] for name in ("requested", "allocated", "active")}
        found["pending"] = found["active"] - found["allocated"]
        if self._on_gpu:
            found["reserved"] = counters["reserved"]
            found["slack"] = found["reserved"] - found["allocated"]
            found["external"] = _external_share(counters)
        return found


def _external_share(counters: np.ndarray) -> np.ndarray:
    free = counters["free"]
    enough = (free > 0) & (free >= LEAST_FREE * counters["reserved"])
    share = np.full(len(free), -1, np.float32)
    np.divide(counters["largest_free"], free, out=share, where=enough, casting="same_kind")
    np.subtract(1, share, out=share, where=enough)
    return share


def _growing(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions begin[i] to end[i] - 1 lie behind the events that made or mapped segments for the block that the
    next event, which leads to end[i], allocates. The allocator's lock is held between: nothing can see these states."""
    grows = (action == AllocatorAction.SEGMENT_ALLOC) | (action == AllocatorAction.SEGMENT_MAP)
    rows = np.flatnonzero(grows)
    first = rows[np.append(True, np.diff(rows) > 1)[: len(rows)]]
    last = rows[np.append(np.diff(rows) > 1, True)[: len(rows)]]
    followed = np.flatnonzero(last + 1 < len(action))
    followed = followed[action[last[followed] + 1] == AllocatorAction.ALLOC]
    return first[followed] + 1, last[followed] + 2
