"""Records become tables: begins joined with their ends and GPU intervals, times in ns.

Every time is int64 ns on the host's CLOCK_MONOTONIC, -1 where there is none. Sizes are bytes. String ids index
`Trace.strings`. A duplicate of an id is dropped: the first in the file wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clock import BLOCK, Clock
from .format import (
    RECORDS,
    AllocatorFlags,
    CollectiveEndFlags,
    CollectiveFlags,
    CollectivePhase,
    Kind,
    SpanOwner,
    StateReason,
)
from .names import BEYOND
from .reader import Slots

MAX_SNAPSHOTS = 1 << 16
SMALL_TABLE = 1 << 16


def _table(*fields: tuple[str, str]) -> np.dtype:
    return np.dtype(list(fields), align=True)


def _timed(kind: Kind) -> np.dtype:
    """The record's own fields behind its time; the field `reserved_bytes` is called `reserved`."""
    names = [name for name in RECORDS[kind].names if name not in ("kind", "tick", "text_bytes")]
    fields = [(name.removesuffix("_bytes"), RECORDS[kind][name].str) for name in names]
    return _table(("time", "i8"), *fields, ("thread", "u4"))


SCOPE = _table(
    ("id", "u4"), ("parent", "u4"), ("name", "u4"), ("path", "i4"), ("level", "u1"), ("type", "u1"), ("device", "i1"),
    ("flags", "u1"), ("thread", "u4"), ("request", "u4"), ("open", "?"), ("first", "?"), ("timed", "?"),
    ("verify", "u1"), ("stream", "u8"), ("begin", "i8"), ("end", "i8"), ("gpu_begin", "i8"), ("gpu_end", "i8"),
)  # fmt: skip
COLLECTIVE = _table(
    ("id", "u4"), ("scope", "u4"), ("path", "i4"), ("op", "u2"), ("role", "u2"), ("unit", "u2"), ("group", "u2"),
    ("tensors", "u2"), ("sequence", "u4"), ("peer", "i4"), ("thread", "u4"), ("coalesced", "u4"), ("flags", "u1"),
    ("dtype", "u1"), ("device", "i1"), ("span_class", "u1"), ("failed", "?"), ("begin_slack", "u4"),
    ("end_slack", "u4"), ("bytes_in", "u8"), ("bytes_out", "u8"), ("stream", "u8"), ("begin", "i8"), ("returned", "i8"),
    ("completed", "i8"), ("gpu_begin", "i8"), ("gpu_end", "i8"), ("kernel_begin", "i8"), ("kernel_end", "i8"),
    ("kernels", "u2"), ("kernel_calls", "u2"),
)  # fmt: skip
KERNEL = _table(
    ("device", "i1"), ("name", "u4"), ("window", "u4"), ("collective", "u4"), ("stream_number", "u8"), ("begin", "i8"),
    ("end", "i8"), ("launch", "i8"),
)  # fmt: skip
ALLOCATOR_EVENT = _table(
    ("device", "i1"), ("action", "u1"), ("flags", "u1"), ("thread", "u4"), ("sequence", "u8"), ("time", "i8"),
    ("completed", "i8"), ("address", "u8"), ("size", "u8"), ("stream", "u8"), ("pool", "u4"), ("scope", "u4"),
)  # fmt: skip
SPAN = _table(
    ("owner", "u4"), ("owner_type", "u1"), ("span_class", "u1"), ("device", "i1"), ("begin_slack", "u4"),
    ("end_slack", "u4"), ("begin", "i8"), ("end", "i8"),
)  # fmt: skip
MEMORY_SAMPLE = _timed(Kind.MEMORY_SAMPLE)
ALLOCATOR_SAMPLE = _timed(Kind.ALLOCATOR_SAMPLE)
DEVICE_SAMPLE = _timed(Kind.DEVICE_SAMPLE)
RECORDER_SAMPLE = _timed(Kind.RECORDER_SAMPLE)
MARK = _timed(Kind.MARK)
DROP = _timed(Kind.DROP)
GATE = _table(("time", "i8"), ("open", "?"))
ANCHOR = _timed(Kind.CLOCK_ANCHOR)
END = _timed(Kind.END)
SEGMENT = _table(*((name, RECORDS[Kind.SEGMENT_STATE][name].str) for name in (
    "address", "total", "allocated", "active", "requested", "stream", "pool", "blocks", "flags")))  # fmt: skip
BLOCK_TABLE = _table(*((name, RECORDS[Kind.BLOCK_STATE][name].str) for name in (
    "address", "size", "requested", "segment", "scope", "stack", "state")))  # fmt: skip


class Rows:
    """Finds the row of an id. `ids` are unique unsigned integers (uint32[n]), in any order.

    A recorder counts its ids, so a table by id serves, and it is ten times as fast as a search. A damaged id can be
    far from all others: where the table would be large for its rows, they are searched.
    """

    def __init__(self, ids: np.ndarray):
        ids = ids.astype(np.int64)
        self._low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
        self._table = self._sorted = None
        if high - self._low < 4 * len(ids) + SMALL_TABLE:
            self._table = np.full(high - self._low + 2, -1, np.int32)  # the last one stands for all ids beyond
            self._table[ids - self._low] = np.arange(len(ids))
        else:
            self._order = np.argsort(ids)
            self._sorted = ids[self._order]

    def __call__(self, ids) -> np.ndarray:
        """Row of each id (int64, the shape of `ids`), -1 for an unknown one."""
        ids = np.asarray(ids).astype(np.int64)
        if self._table is None:
            at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
            return np.where(self._sorted[at] == ids, self._order[at], -1)
        ids -= self._low
        np.copyto(ids, len(self._table) - 1, where=(ids < 0) | (ids >= len(self._table)))
        return self._table[ids].astype(np.int64)


@dataclass(frozen=True)
class Snapshot:
    """The allocator's state on one device at `sequence` of its events; `complete` when all of it is in the file."""

    reason: str
    device: int
    sequence: int
    time: int
    allocated: int
    reserved: int
    active: int
    requested: int
    segments: np.ndarray
    blocks: np.ndarray
    complete: bool


def _begun(slots: Slots, kind: Kind) -> np.ndarray:
    """Positions of the begin records, one an id, in order of their ticks."""
    positions = slots.positions(kind)
    ids = slots.column(kind, "id", positions)
    first = np.unique(ids, return_index=True)[1]
    slots.note(f"{kind.name.lower()} records with an id that came before", len(ids) - len(first))
    first = first[ids[first] > 0]
    order = np.lexsort((ids[first], slots.column(kind, "tick", positions[first])))
    return positions[first[order]]


def _distinct(rows: np.ndarray, count: int) -> int:
    seen = np.zeros(count, bool)
    seen[rows] = True
    return int(seen.sum())


def _join_ends(slots: Slots, clock: Clock, kind: Kind, rows: Rows, positions: np.ndarray, begin, end) -> np.ndarray:
    """Write the time of the end records at `positions` into `end`; returns the row of each, -1 where it has none."""
    found = rows(slots.column(kind, "id", positions))
    known = np.flatnonzero(found >= 0)
    slots.note_loose_end(f"{kind.name.lower()} records without a begin", len(found) - len(known))
    slots.note(f"{kind.name.lower()} records of what has ended before", len(known) - _distinct(found[known], len(end)))
    # Backwards, because of equal indexes the last assignment stays: so the first in the file wins.
    known = known[::-1]
    end[found[known]] = clock.ns(slots.column(kind, "tick", positions[known]))
    early = (end >= 0) & (end < begin)
    slots.note(f"{kind.name.lower()} records before their begin", early.sum())
    end[early] = -1
    return found


def first_rows(keys: np.ndarray, count: int) -> np.ndarray:
    """Row of the first occurrence of each of the keys 0 … count - 1, all of which occur (int64[count])."""
    first = np.zeros(count, np.int64)
    first[keys[::-1]] = np.arange(len(keys))[::-1]
    return first


def gpu_spans(slots: Slots, clock: Clock) -> np.ndarray:
    """All GPU intervals in ns (SPAN[n], file order)."""
    spans = slots.take(Kind.GPU_SPAN, SPAN, slots.positions(Kind.GPU_SPAN))
    for device in np.unique(spans["device"]).tolist():
        own = np.flatnonzero(spans["device"] == device)
        if device not in clock.devices:
            slots.note(f"GPU intervals on device {device}, which has no clock anchor", len(own))
        for name in ("begin", "end"):
            spans[name][own] = clock.gpu(device, spans[name][own])
    spans["end"] = np.maximum(spans["begin"], spans["end"])
    return spans


def _join_spans(slots: Slots, spans: np.ndarray, owner: SpanOwner, rows: Rows, out: np.ndarray) -> None:
    own = np.flatnonzero(spans["owner_type"] == owner)
    found = rows(spans["owner"][own])
    known = np.flatnonzero(found >= 0)[::-1]
    into, source = found[known], own[known]
    slots.note_loose_end(f"GPU intervals of an unknown {owner.name.lower()}", len(own) - len(known))
    slots.note(f"second GPU intervals of a {owner.name.lower()}", len(known) - _distinct(into, len(out)))
    out["gpu_begin"] = out["gpu_end"] = -1
    for name in ("gpu_begin", "gpu_end", "span_class", "begin_slack", "end_slack"):
        if name in out.dtype.names:
            out[name][into] = spans[name.removeprefix("gpu_")][source]


def scopes(slots: Slots, clock: Clock, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray, Rows]:
    """SCOPE[n] by begin time, without paths; the records' positions; and the row of an id."""
    positions = _begun(slots, Kind.SCOPE_BEGIN)
    out = slots.take(Kind.SCOPE_BEGIN, SCOPE, positions, begin="tick")
    out["name"] = np.minimum(out["name"], BEYOND)
    out["begin"] = clock.ns(out["begin"])
    out["end"] = -1
    rows = Rows(out["id"])
    ends = slots.positions(Kind.SCOPE_END)
    found = _join_ends(slots, clock, Kind.SCOPE_END, rows, ends, out["begin"], out["end"])
    known = np.flatnonzero(found >= 0)[::-1]
    out["flags"][found[known]] = slots.column(Kind.SCOPE_END, "flags", ends[known])
    out["open"] = out["end"] < 0
    _join_spans(slots, spans, SpanOwner.SCOPE, rows, out)
    return out, positions, rows


def collectives(slots: Slots, clock: Clock, spans: np.ndarray) -> np.ndarray:
    """COLLECTIVE[n] by begin time, without paths. The flag TIMED is taken from calls whose end takes it back."""
    out = slots.take(Kind.COLLECTIVE, COLLECTIVE, _begun(slots, Kind.COLLECTIVE), begin="tick")
    out["begin"] = clock.ns(out["begin"])
    out["returned"] = out["completed"] = -1
    rows = Rows(out["id"])
    ends = slots.positions(Kind.COLLECTIVE_END)
    phases = slots.column(Kind.COLLECTIVE_END, "phase", ends)
    for phase, name in zip(CollectivePhase, ("returned", "completed", "completed"), strict=True):
        own = ends[phases == phase]
        found = _join_ends(slots, clock, Kind.COLLECTIVE_END, rows, own, out["begin"], out[name])
        if phase is CollectivePhase.FAILED:
            out["failed"][found[found >= 0]] = True
    _join_units(slots, rows, ends, out["unit"])
    untimed = ends[(slots.column(Kind.COLLECTIVE_END, "flags", ends) & CollectiveEndFlags.UNTIMED) != 0]
    taken_back = rows(slots.column(Kind.COLLECTIVE_END, "id", untimed))
    out["flags"][taken_back[taken_back >= 0]] &= 0xFF & ~int(CollectiveFlags.TIMED)
    _join_spans(slots, spans, SpanOwner.COLLECTIVE, rows, out)
    return out


def _join_units(slots: Slots, rows: Rows, ends: np.ndarray, out: np.ndarray) -> None:
    """String ids of units into `out` (uint16[n], zeros); the first end that tells one wins."""
    units = slots.column(Kind.COLLECTIVE_END, "unit", ends)
    told = np.flatnonzero(units)[::-1]
    at = rows(slots.column(Kind.COLLECTIVE_END, "id", ends[told]))
    out[at[at >= 0]] = units[told[at >= 0]]


def allocator_events(slots: Slots, clock: Clock) -> np.ndarray:
    """ALLOCATOR_EVENT[n] by device and sequence number: the allocator's own order."""
    positions = slots.positions(Kind.ALLOCATOR)
    keys = slots.column(Kind.ALLOCATOR, "sequence", positions), slots.column(Kind.ALLOCATOR, "device", positions)
    order = np.lexsort(keys)
    positions = positions[order]
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys]) if len(order) else order[:0]
    del keys, order
    if same.any():
        slots.note("allocator events with a sequence number that came before", same.sum())
        positions = positions[np.append(True, ~same)]
    out = slots.take(Kind.ALLOCATOR, ALLOCATOR_EVENT, positions, time="tick", completed="completed_after")
    for part in (out[i : i + BLOCK] for i in range(0, len(out), BLOCK)):
        folded = (part["flags"] & AllocatorFlags.FREE_FOLDED) != 0
        part["completed"] = np.where(folded, clock.ns(part["time"] + part["completed"]), -1)
        part["time"] = clock.ns(part["time"])
    return out


def timed(slots: Slots, clock: Clock, kind: Kind, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Records that stand for one moment, by time; and their positions."""
    positions = slots.positions(kind)
    positions = positions[np.argsort(slots.column(kind, "tick", positions), kind="stable")]
    out = slots.take(kind, dtype, positions, time="tick", reserved="reserved_bytes")
    out["time"] = clock.ns(out["time"])
    if "name" in dtype.names:
        out["name"] = np.minimum(out["name"], BEYOND)
    return out, positions


def _parts(slots: Slots, kind: Kind, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Records of a kind by their snapshot's number, and those numbers (ascending)."""
    positions = slots.positions(kind)
    numbers = slots.column(kind, "snapshot", positions)
    order = np.argsort(numbers, kind="stable")
    return slots.take(kind, dtype, positions[order]), numbers[order]


def snapshots(slots: Slots, clock: Clock) -> list[Snapshot]:
    """Snapshots in order of time, each with its segments and blocks."""
    positions = slots.positions(Kind.STATE_BEGIN)
    begun = slots.rows(Kind.STATE_BEGIN, positions)
    first = np.unique(begun["snapshot"], return_index=True)[1]
    slots.note("snapshots with a number that came before", len(begun) - len(first))
    slots.note(f"snapshots beyond the first {MAX_SNAPSHOTS}, left out", max(len(first) - MAX_SNAPSHOTS, 0))
    begun = begun[np.sort(first)[:MAX_SNAPSHOTS]]
    ended = set(slots.column(Kind.STATE_END, "snapshot", slots.positions(Kind.STATE_END)).tolist())
    parts = [_parts(slots, Kind.SEGMENT_STATE, SEGMENT), _parts(slots, Kind.BLOCK_STATE, BLOCK_TABLE)]
    reasons = {int(reason): reason.name.lower() for reason in StateReason}
    found = []
    for row, time in zip(begun, clock.ns(begun["tick"]).tolist(), strict=True):
        number = row["snapshot"]
        bounds = [[np.searchsorted(at, number, side) for side in ("left", "right")] for _, at in parts]
        segments, blocks = (rows[begin:end] for (rows, _), (begin, end) in zip(parts, bounds, strict=True))
        whole = int(number) in ended and (len(segments), len(blocks)) == (row["segments"], row["blocks"])
        totals = {name: int(row[name]) for name in ("device", "sequence", "allocated", "active", "requested")}
        totals |= {"reserved": int(row["reserved_bytes"]), "reason": reasons.get(int(row["reason"]), "unknown")}
        found.append(Snapshot(time=time, segments=segments, blocks=blocks, complete=bool(whole), **totals))
    return sorted(found, key=lambda snapshot: snapshot.time)
