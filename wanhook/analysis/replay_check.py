"""The self-check of a replay: its state against what torch itself said at the same places.

A place is a sample of torch's counters, or a snapshot with its whole address map. Only places at which the replay
claims to be exact are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.tracefile.format import AllocatorFlags, BlockState

if TYPE_CHECKING:
    from wanhook.analysis.device_replay import DeviceReplay
    from wanhook.tracefile.model import Snapshot, Trace

COUNTED = ("requested", "allocated", "active", "reserved", "inactive_split")
_SEGMENT_COLUMNS = ("address", "total", "allocated", "active", "requested", "stream", "pool", "blocks", "flags")
_BLOCK_COLUMNS = ("address", "size", "segment", "state")
# A sample without a sequence number is placed by its time, which is read a little after the counters.
_SAMPLE_DELAY = 20_000  # ns


@dataclass(frozen=True)
class Difference:
    """`what` is a counter, or "segment" or "block" with a column's name. `at_ns` after the recording began."""

    position: int
    at_ns: int
    what: str
    ours: int
    torchs: int


@dataclass(frozen=True)
class ReplayCheck:
    """Compared places, the equal ones, and those left out because exactness was not claimed there (or, of very many
    large snapshots, because there is no room for their maps). `refused`: why nothing is claimed at all.
    `contradictions`: how many events contradicted the state."""

    places: int
    equal: int
    not_claimed: int
    first_difference: Difference | None
    refused: list[str]
    contradictions: int

    @property
    def exact(self) -> bool:
        """Claimed everywhere and equal wherever it could be compared."""
        return not (self.refused or self.not_claimed or self.contradictions) and self.equal == self.places


def check_replay(trace: Trace, replay: DeviceReplay) -> ReplayCheck:
    """Compares a device's replay with the samples and snapshots of its trace."""
    places = [*_sample_places(trace, replay), *snapshot_places(replay)]
    return compare(trace, replay, places, exact_places(replay, places))


def exact_places(replay: DeviceReplay, places: list[tuple]) -> np.ndarray:
    """bool[places]: where the replay claims to be exact, from the place on up to the next event."""
    return replay.exact_at(np.array([position for position, _ in places], np.int64))


def compare(trace: Trace, replay: DeviceReplay, places: list[tuple], claimed: np.ndarray) -> ReplayCheck:
    """places: (position, comparison), which gives None where all agrees, else (what, ours, theirs). Those of which
    nothing is claimed are not asked."""
    compared = [place for place, exact in zip(places, claimed.tolist(), strict=True) if exact]
    began = trace.header["start_monotonic"]
    differences, unknown = [], 0
    for position, difference in compared:
        try:
            found = difference()
        except KeyError:  # a map too many to be kept
            unknown += 1
            continue
        if found is not None:
            differences.append(Difference(position, replay.time(position) - began, *found))
    return ReplayCheck(
        places=len(compared) - unknown,
        equal=len(compared) - unknown - len(differences),
        not_claimed=len(places) - len(compared) + unknown,
        first_difference=min(differences, key=lambda found: found.position, default=None),
        refused=list(replay.refused),
        contradictions=replay.result.contradiction_count,
    )


# Samples -------------------------------------------------------------------------------------------------------------


def _sample_places(trace: Trace, replay: DeviceReplay) -> list[tuple]:
    """(position, comparison) of each sample of torch's counters on this device."""
    memory = trace.memory_samples[trace.memory_samples["device"] == replay.device]
    if replay.device < 0 or len(memory) == 0:
        return []
    more = trace.allocator_samples[trace.allocator_samples["device"] == replay.device]
    place = np.minimum(np.searchsorted(more["time"], memory["time"]), len(more) - 1) if len(more) else None
    found = []
    for row, sample in enumerate(memory):
        own = more[place[row]] if place is not None and more["time"][place[row]] == sample["time"] else None
        truth = [int(sample[name]) for name in COUNTED[:-1]]
        truth.append(int(own["inactive_split"]) if own is not None else -1)
        sequence = int(own["sequence"]) if own is not None and "sequence" in more.dtype.names else 0
        position = int(replay.positions(sample["time"], "right"))
        states = [_counters(replay, position)]
        if sequence:
            position, states = _place_of(replay, position, sequence)
        else:
            first = int(replay.positions(sample["time"] - _SAMPLE_DELAY, "right"))
            states += [_counters(replay, earlier) for earlier in range(position - 1, max(first, position - 64) - 1, -1)]
        found.append((position, lambda truth=truth, states=states: _first_unlike(truth, states)))
    return found


def _place_of(replay: DeviceReplay, near: int, low_bits: int) -> tuple[int, list[np.ndarray]]:
    """The position behind the event whose number ends in these 32 bits, and the state there."""
    sequences = replay.events["sequence"]
    about = int(sequences[min(near, len(sequences) - 1)]) if len(sequences) else low_bits
    sequence = about + ((low_bits - about + (1 << 31)) % (1 << 32)) - (1 << 31)
    position = int(np.searchsorted(sequences, max(sequence, 0), "right"))
    state = _counters(replay, position)
    # A free that the next event completes is one record with two numbers, and torch can be asked between the two.
    folded = position and replay.events["flags"][position - 1] & AllocatorFlags.FREE_FOLDED
    if folded and sequences[position - 1] == sequence:
        before = _counters(replay, position - 1)
        state = np.where(np.array(COUNTED) == "allocated", state, before)
    return position, [state]


def _counters(replay: DeviceReplay, position: int) -> np.ndarray:
    row = replay.result.counters[position]
    return np.array([row[name] for name in COUNTED])


def _first_unlike(truth: list[int], states: list[np.ndarray]) -> tuple[str, int, int] | None:
    """The first counter that differs from torch's (-1: not known) in the first state, unless a state agrees in all."""
    known = np.array(truth) >= 0
    if any((state[known] == np.array(truth)[known]).all() for state in states):
        return None
    unlike = int(np.flatnonzero(known & (states[0] != truth))[0])
    return COUNTED[unlike], int(states[0][unlike]), truth[unlike]


# Snapshots -----------------------------------------------------------------------------------------------------------


def snapshot_places(replay: DeviceReplay) -> list[tuple]:
    """(position, comparison) of each snapshot: those written for it, and the state just before each one that the
    replay started over from, but for the first. A snapshot without an event of its own has no such place."""
    before = [(position - 1, found) for position, found in replay.known[1:] if found.sequence > 0 and position > 0]
    places = [*replay.checks, *before]
    return [
        (position, lambda position=position, found=found: map_difference(replay.result.address_map(position), found))
        for position, found in places
    ]


def map_difference(ours: tuple[np.ndarray, np.ndarray], snapshot: Snapshot) -> tuple[str, int, int] | None:
    """(what, ours, torch's) of the first row, by address, that is not the snapshot's; None when all are.

    ours: (SEGMENT, BLOCK) rows. What a free block was asked for last is not compared.
    """
    segments = snapshot.segments[np.argsort(snapshot.segments["address"], kind="stable")]
    blocks = snapshot.blocks[np.argsort(snapshot.blocks["address"], kind="stable")]
    found = _table_difference("segment", ours[0], segments, _SEGMENT_COLUMNS)
    found = found or _table_difference("block", ours[1], blocks, _BLOCK_COLUMNS)
    if found is not None:
        return found
    active = blocks["state"] != BlockState.INACTIVE
    return _table_difference("block", ours[1][active], blocks[active], ("requested",))


def _table_difference(what: str, ours: np.ndarray, torchs: np.ndarray, columns: tuple) -> tuple[str, int, int] | None:
    count = min(len(ours), len(torchs))
    unlike = np.zeros((count, len(columns)), bool)
    for number, name in enumerate(columns):
        unlike[:, number] = ours[name][:count] != torchs[name][:count]
    rows = np.flatnonzero(unlike.any(axis=1))
    if len(rows):
        name = columns[int(np.argmax(unlike[rows[0]]))]
        return f"{what} {name}", int(ours[name][rows[0]]), int(torchs[name][rows[0]])
    return None if len(ours) == len(torchs) else (f"{what}s", len(ours), len(torchs))
