"""One device's allocator events, played into the block model from the states that the recording knows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wanhook import _replay
from wanhook.analysis.allocator_settings import settings_changed, settings_of
from wanhook.tracefile.format import AllocatorAction

if TYPE_CHECKING:
    from wanhook.tracefile.model import Snapshot, Trace

_STATE_KNOWN_AGAIN = ("start", "resync", "resume")


class DeviceReplay:
    """Position p is the state after the first p events of the device; there are len(events) + 1 positions.

    `result` is the replay. `known` are the (position, snapshot) it started over from, `checks` those of the states that
    were written only to be compared with, both ascending. `refused` says why the figures are claimed nowhere; empty
    when they are torch's own wherever `exact_at` says so.
    """

    def __init__(
        self,
        trace: Trace,
        device: int,
        *,
        largest_free: bool = True,
        blocks: bool = True,
        maps_at: Iterable[int] = (),
    ) -> None:
        """`largest_free`, `blocks` and `maps_at` as in wanhook._replay.replay; address maps are also kept where the
        self-check needs them."""
        events = trace.allocator_events
        # Sorted by device: a slice is a view, where a mask would copy gigabytes.
        begin, end = np.searchsorted(events["device"], [device, device + 1])
        self.device = device
        self.events = events[begin:end]
        self._times = np.maximum.accumulate(self.events["time"])
        states = [found for found in trace.snapshots if found.device == device and found.complete]
        placed = sorted(((self._position_of(found), found) for found in states), key=lambda state: state[0])
        self.known = [state for state in placed if state[1].reason in _STATE_KNOWN_AGAIN]
        self.checks = [state for state in placed if state[1].reason not in _STATE_KNOWN_AGAIN]
        self._new_at_start = self._is_new(trace)
        self._paused = self._pauses(trace)
        settings = settings_of(trace)
        self.refused = self._refusals(trace, settings)
        self.settings = settings if isinstance(settings, _replay.Settings) else _replay.Settings()
        compared = [position for position, _ in self.checks] + [max(position - 1, 0) for position, _ in self.known]
        self.result = _replay.replay(
            self.events,
            [_replay.KnownState(position, found.segments, found.blocks) for position, found in self.known],
            self.settings,
            host=device < 0,
            complete_from_start=self._new_at_start,
            largest_free=largest_free,
            blocks=blocks,
            maps_at=sorted({*maps_at, *compared}),
            unknown_from=self._paused,
        )

    def exact_at(self, positions: np.ndarray) -> np.ndarray:
        """bool, the shape of positions: where the figures are claimed to be torch's own."""
        if self.refused:
            return np.zeros(len(positions), bool)
        return self.result.exact_at(np.asarray(positions, np.int64))

    @cached_property
    def unclaimed(self) -> list[tuple[int, int]]:
        """[begin, end) of the positions behind the first known state whose figures are an estimate at best, ascending;
        empty where everything is refused, of which `refused` speaks. A state that a pause found was true until then."""
        if self.refused:
            return []
        exact, paused = self.result.exact, self._paused
        exact = exact[np.argmax(exact["known"] != 0) :]
        known = exact["known"] != 0
        begin = np.where(known, exact["inexact_from"], exact["begin"])
        begin = begin + (known & np.isin(begin, paused))
        return [(low, high) for low, high in zip(begin.tolist(), exact["end"].tolist(), strict=True) if low < high]

    def is_claimed(self, positions: np.ndarray) -> np.ndarray:
        """bool, the shape of positions: whether none of `unclaimed` holds them."""
        edges = np.array(self.unclaimed, np.int64).reshape(-1)
        return np.searchsorted(edges, positions, "right") % 2 == 0

    def positions(self, times: np.ndarray, side: str) -> np.ndarray:
        """Positions at host times (ns): "left" before the events of that very time, "right" after them."""
        return np.searchsorted(self._times, times, side)

    def time(self, position: int) -> int:
        """Host time (ns) at which a position was reached, that of the first known state at position 0, else -1."""
        if position:
            return int(self._times[position - 1])
        return int(self.first_known[1].time) if self.first_known else -1

    @property
    def first_known(self) -> tuple[int, Snapshot] | None:
        """The (position, snapshot) before which nothing is known; None for a device that is known from its first event
        on, because its allocator was new then."""
        if self._new_at_start and self.known and self.known[0][1].reason != "start":
            return None
        return self.known[0] if self.known else None

    def _is_new(self, trace: Trace) -> bool:
        """Whether the allocator had given nothing yet at position 0.

        The twin of the CPU's begins with the process's first recording; later ones need a state. A GPU gets a state at
        the start if torch ever took memory of it, and the event that marks the place of that state is a number. So one
        without a state whose first event has the first number was not used before."""
        if self.device < 0:
            return int(trace.header["life"]) == 0
        if not len(self.events) or any(found.reason == "start" for _, found in self.known):
            return False
        first = self.events[0]
        return int(first["sequence"]) == 1 and int(first["action"]) != AllocatorAction.SNAPSHOT

    def _position_of(self, snapshot: Snapshot) -> int:
        if snapshot.sequence > 0:
            return int(np.searchsorted(self.events["sequence"], snapshot.sequence, "right"))
        return int(np.searchsorted(self._times, snapshot.time, "right"))

    def _pauses(self, trace: Trace) -> list[int]:
        closed = trace.gates["time"][~trace.gates["open"]]
        positions = self.positions(closed, "right")
        # Where nothing was recorded in between, a pause and the state behind it have one position.
        written = {position: int(found.time) for position, found in self.known}
        over = [written.get(at, -1) >= time for at, time in zip(positions.tolist(), closed.tolist(), strict=True)]
        return np.unique(positions[~np.array(over, bool)]).tolist()

    def _refusals(self, trace: Trace, settings: _replay.Settings | str) -> list[str]:
        why = [settings] if self.device >= 0 and isinstance(settings, str) else []
        if not self._new_at_start and not self.known:
            why.append("no snapshot tells what was allocated before the recording")
        if self.device >= 0 and settings_changed(trace):
            why.append("the program changed the allocator's settings while it was recorded")
        return why
