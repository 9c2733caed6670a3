"""Compares a replay of a recording with what torch itself said while it was recorded. Needs neither torch nor a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wanhook.tracefile.format import BlockState, SampleEdge

COUNTED = ("requested", "allocated", "active", "reserved", "inactive_split")
COUNTERS = np.dtype([("operation", "i8"), ("device", "i8"), ("current", "i8", 5), ("peak", "i8", 5)])
SEGMENTS = np.dtype(
    [("operation", "i8"), ("device", "i8"), ("address", "u8"), ("total", "u8"), ("stream", "u8"), ("pool", "u4")]
)
BLOCKS = np.dtype(
    [("operation", "i8"), ("device", "i8"), ("address", "u8"), ("size", "u8"), ("requested", "u8"), ("state", "u1")]
)
_STATES = {
    "active_allocated": BlockState.ALLOCATED,
    "active_pending_free": BlockState.PENDING_FREE,
    "active_awaiting_free": BlockState.PENDING_FREE,
    "inactive": BlockState.INACTIVE,
}
_USER_POOL = 0x80000000


def encoded_pool(pool: tuple[int, int]) -> int:
    """How a trace writes torch's pair: the pool of a capture, or of a MemPool."""
    first, second = pool
    return first or (_USER_POOL | second if second else 0)


class TruthWriter:
    """Collects what torch said."""

    def __init__(self):
        self._counters, self._segments, self._blocks = [], [], []

    def add_counters(self, operation: int, device: int, values: list[tuple[int, int]]) -> None:
        """``values``: (current, peak) for each of COUNTED."""
        self._counters.append((operation, device, *zip(*values, strict=True)))

    def add_map(self, operation: int, device: int, segments: list[tuple], blocks: list[tuple]) -> None:
        """(address, total, stream, pool) and (address, size, requested, torch's name of the state)."""
        self._segments += [(operation, device, *each) for each in segments]
        self._blocks += [(operation, device, *each[:3], _STATES[each[3]]) for each in blocks]

    def write(self, path: Path) -> None:
        np.savez_compressed(
            path,
            counters=np.array(self._counters, COUNTERS),
            segments=np.array(self._segments, SEGMENTS),
            blocks=np.array(self._blocks, BLOCKS),
        )


@dataclass(frozen=True)
class Truth:
    """What torch said of one device: `counters` (COUNTERS, by operation), `segments` and `blocks` (by operation and
    address) of the operations behind which the address map was read."""

    counters: np.ndarray
    segments: np.ndarray
    blocks: np.ndarray

    @classmethod
    def read(cls, path: Path, device: int = 0) -> Truth:
        with np.load(path) as file:
            tables = {name: file[name][file[name]["device"] == device] for name in ("counters", "segments", "blocks")}
        for name in ("segments", "blocks"):
            tables[name] = np.sort(tables[name], order=["operation", "address"])
        return cls(**tables)


@dataclass(frozen=True)
class Difference:
    """`operation`: how many were done. `field`: a counter, or what of the address map."""

    operation: int
    position: int
    field: str
    ours: object
    torchs: object

    def __str__(self) -> str:
        where = f"after operation {self.operation} (event position {self.position})"
        return f"{where}: {self.field}: ours {self.ours}, torch's {self.torchs}"


def check_positions(trace, device: int) -> dict[int, int]:
    """Operation -> position among the device's events, by the memory samples at the begin of the scopes `check`.
    AssertionError where a sample does not know its place."""
    events = trace.allocator_events[trace.allocator_events["device"] == device]
    samples, places = trace.memory_samples, trace.allocator_samples
    assert samples[["time", "device"]].tolist() == places[["time", "device"]].tolist()
    own = (samples["device"] == device) & (samples["edge"] == SampleEdge.SCOPE_BEGIN)
    found = {}
    for sample, place in zip(samples[own], places[own], strict=True):
        row = trace.scope_rows(sample["scope"])
        if row < 0 or trace.strings[trace.scopes["name"][row]] != "check":
            continue
        operation = trace.scope_args[int(sample["scope"])]["operation"]
        assert place["sequence"] > 0, f"the sample after operation {operation} does not know its place"
        position = int(np.searchsorted(events["sequence"] & 0xFFFFFFFF, place["sequence"], "right"))
        inside = position > 0 and events["completed"][position - 1] >= 0
        assert not inside or place["sequence"] > events["sequence"][position - 1] & 0xFFFFFFFF, (
            f"the sample after operation {operation} lies inside a folded free"
        )
        found[operation] = position
    return found


def counter_differences(counters: np.ndarray, since: list[int], positions: dict[int, int], truth: Truth):
    """Where `counters` (fields of COUNTED by position, int64) differ from torch's, by operation. `since`: ascending
    positions at which torch's peaks were reset."""
    starts = np.array(since)
    for row in truth.counters:
        operation = int(row["operation"])
        position = positions[operation]
        begin = int(starts[np.searchsorted(starts, position, "right") - 1])
        for number, name in enumerate(COUNTED):
            ours = {"current": counters[name][position], "peak": counters[name][begin : position + 1].max()}
            for kind, value in ours.items():
                if int(value) != int(row[kind][number]):
                    yield Difference(operation, position, f"{name}, {kind}", int(value), int(row[kind][number]))


def map_differences(address_map, positions: dict[int, int], truth: Truth) -> Iterator[Difference]:
    """Where the address map differs from torch's: one difference a moment, the first address that is not the same.
    `address_map(position)` gives segments and blocks as Replay does."""
    for operation in np.unique(truth.segments["operation"]).tolist():
        position = positions[operation]
        segments, blocks = address_map(position)
        theirs = truth.segments[truth.segments["operation"] == operation]
        columns = ["address", "total", "stream", "pool"]
        yield from _first_row(operation, position, "segment", _rows(segments, columns), _rows(theirs, columns))
        theirs = truth.blocks[truth.blocks["operation"] == operation]
        yield from _first_row(operation, position, "block", _block_rows(blocks), _block_rows(theirs))


def _rows(table: np.ndarray, columns: list[str]) -> list[tuple]:
    return list(zip(*(table[name].tolist() for name in columns), strict=True))


def _block_rows(blocks: np.ndarray) -> list[tuple]:
    """(address, size, requested, state); what a free block was asked for is left over from its last life."""
    requested = np.where(blocks["state"] == BlockState.INACTIVE, 0, blocks["requested"])
    columns = blocks["address"], blocks["size"], requested, blocks["state"]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _first_row(operation: int, position: int, what: str, ours: list, torchs: list) -> Iterator[Difference]:
    if ours == torchs:
        return
    both = zip([*ours, None], [*torchs, None], strict=False)
    number, (one, other) = next((row, pair) for row, pair in enumerate(both) if pair[0] != pair[1])
    counts = f"{len(ours)} of ours, {len(torchs)} of torch's"
    yield Difference(operation, position, f"{what} {number} in order of address ({counts})", one, other)
