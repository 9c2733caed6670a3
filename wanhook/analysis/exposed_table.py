"""Exposed communication by op, role and group, over the ranks; in total and for one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.bandwidth import operation
from wanhook.analysis.exposed_units import ExposedUnit, exposed_units
from wanhook.analysis.exposure import exposed_intervals, lasting, on_compute_stream, scope_intervals, waits
from wanhook.analysis.groups import GroupClass, GroupClasses
from wanhook.analysis.ranks import RankTotal, calls_by_rank, on_gpu, rank_of, totals_by_rank
from wanhook.analysis.warm_up import first_occurrences
from wanhook.tracefile.format import ScopeVerify

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class ExposedRow:
    """Calls of one op, role and group class; sums are over the `timed` ones (`untimed`: without a time on the clock of
    the compute stream). `ranks` and `exposed_ranks` hold the time of each rank, all of it and what is exposed.

    `compute_stream` calls ran on a compute stream, exposed in full. `unknown` calls ran on other streams, and nothing
    is recorded that waits for them: they count as not exposed, and `exposed_ns` and what follows from it is None where
    all are like that. `step_…` are a step's mean over the recorded steps but first ones; None without steps. `units`
    splits the calls by what they were made for, where they tell it.
    """

    op: str
    role: str
    group: GroupClass
    clock: str | None
    calls_by_rank: dict[int, int]
    timed: int
    untimed: int
    compute_stream: int
    unknown: int
    total_ns: int
    exposed_ns: int | None
    share: float | None
    ranks: list[RankTotal]
    exposed_ranks: list[RankTotal]
    step_total_ns: float | None
    step_exposed_ns: float | None
    step_share: float | None
    units: list[ExposedUnit]

    @property
    def name(self) -> str:
        return f"{self.op} {self.role}".strip()


@dataclass(frozen=True)
class Exposure:
    """`step`: path of the stage that the figures of a step are about; `step_ns`: its mean. None where none recurs."""

    step: str | None
    step_ns: float | None
    rows: list[ExposedRow]


_COLUMNS = np.dtype(
    [("key", "i8"), ("rank", "i8"), ("length", "i8"), ("exposed", "i8"), ("in_step", "i8"), ("exposed_in_step", "i8"),
     ("unit", "i4"), ("timed", "?"), ("own", "?"), ("gpu", "?")]
)  # fmt: skip
_Key = tuple[str, str, GroupClass]


def exposure(traces: Sequence[Trace], step: str | None) -> Exposure:
    """Rows by exposed time, largest first, then by time. `step`: path of the repeated stage."""
    classes, keys, units = GroupClasses(traces), {}, {}
    steps = _steps(traces, step)
    parts = [_columns(trace, classes, keys, units, inside) for trace, inside in zip(traces, steps, strict=True)]
    table = np.concatenate([np.empty(0, _COLUMNS), *parts])
    table = table[np.argsort(table["key"], kind="stable")]
    bounds = np.searchsorted(table["key"], np.arange(len(keys) + 1))
    spans = np.concatenate([np.empty((0, 2), np.int64), *(spans for inside in steps for spans in inside.values())])
    lengths = spans[:, 1] - spans[:, 0]
    waiting = {trace.strings[name] for trace in traces for name in np.unique(waits(trace)["name"])}
    rows = [_row(key, table[bounds[at] : bounds[at + 1]], lengths, waiting, list(units)) for key, at in keys.items()]
    rows.sort(key=lambda row: (-(row.exposed_ns or 0), -row.total_ns, row.op, row.role))
    return Exposure(step if len(lengths) else None, float(lengths.mean()) if len(lengths) else None, rows)


def _steps(traces: Sequence[Trace], path: str | None) -> list[dict[int, np.ndarray]]:
    """The occurrences of a path but for first and for muted ones, of which nothing is known, as intervals by device."""
    named = [
        np.isin(trace.scopes["path"], [at for at, text in enumerate(trace.paths) if text == path]) for trace in traces
    ]
    rows = [trace.scopes[own] for trace, own in zip(traces, named, strict=True)]
    firsts = first_occurrences(traces, [np.zeros(len(own), np.int64) for own in rows])
    found = []
    for trace, own, first in zip(traces, rows, firsts, strict=True):
        own = own[~first & (own["verify"] != ScopeVerify.MUTED)]
        begin, end = scope_intervals(trace, own)
        timed = [(device, (begin >= 0) & (own["device"] == device)) for device in np.unique(own["device"]).tolist()]
        found.append({device: intervals.of(begin[at], end[at]) for device, at in timed if at.any()})
    return found


def _inside(calls: np.ndarray, begin: np.ndarray, end: np.ndarray, steps: dict[int, np.ndarray]) -> np.ndarray:
    """How long (ns, int64[n]) an interval of each call lies in steps: those of its device, if that has any."""
    out = np.zeros(len(calls), np.int64)
    everywhere = np.concatenate([np.empty((0, 2), np.int64), *steps.values()])
    for device in np.unique(calls["device"]).tolist():
        at = calls["device"] == device
        out[at] = intervals.overlap(begin[at], end[at], steps.get(device, everywhere))
    return out


def _columns(
    trace: Trace, classes: GroupClasses, keys: dict[_Key, int], units: dict[str, int], steps: dict[int, np.ndarray]
) -> np.ndarray:
    """One row a call. Op, role and group are 16 bits wide in the file."""
    calls = trace.collectives
    packed = (calls["op"].astype(np.int64) << 32) | (calls["role"].astype(np.int64) << 16) | calls["group"]
    kinds, kind = np.unique(packed, return_inverse=True)
    key_of = np.zeros(len(kinds), np.int64)
    for at, one in enumerate(kinds.tolist()):
        op, role = operation(trace.strings[one >> 32]).name, trace.strings[one >> 16 & 0xFFFF]
        key_of[at] = keys.setdefault((op, role, classes.of(trace, one & 0xFFFF)), len(keys))
    begin, end, usable = lasting(trace)
    exposed_begin, exposed_end = exposed_intervals(trace)
    out = np.zeros(len(calls), _COLUMNS)
    out["key"], out["rank"], out["unit"] = key_of[kind], rank_of(trace), _numbered(trace, units)
    out["timed"], out["gpu"], out["own"] = usable, on_gpu(trace), usable & on_compute_stream(trace)
    out["length"], out["exposed"] = end - begin, exposed_end - exposed_begin
    out["in_step"] = _inside(calls, begin, end, steps)
    out["exposed_in_step"] = _inside(calls, exposed_begin, exposed_end, steps)
    return out


def _numbered(trace: Trace, units: dict[str, int]) -> np.ndarray:
    """The number of each call's unit in `units`, to which new ones are added (int64[n])."""
    ids, place = np.unique(trace.collectives["unit"], return_inverse=True)
    return np.array([units.setdefault(trace.strings[each], len(units)) for each in ids], np.int64)[place]


def _row(key: _Key, calls: np.ndarray, step_lengths: np.ndarray, waiting: set[str], units: list[str]) -> ExposedRow:
    op, role, group = key
    steps, steps_ns = len(step_lengths), int(step_lengths.sum())
    timed = calls[calls["timed"]]
    clocks = {"gpu" if on else "host" for on in np.unique(timed["gpu"])}
    side = timed[~timed["own"]]
    unknown = 0 if f"{role} wait" in waiting or side["exposed"].any() else len(side)
    known = unknown < len(timed)
    total, exposed = int(timed["length"].sum()), int(timed["exposed"].sum())
    in_step, exposed_in_step = int(timed["in_step"].sum()), int(timed["exposed_in_step"].sum())
    return ExposedRow(
        op=op,
        role=role,
        group=group,
        clock=None if not clocks else clocks.pop() if len(clocks) == 1 else "mixed",
        calls_by_rank=calls_by_rank(calls["rank"]),
        timed=len(timed),
        untimed=len(calls) - len(timed),
        compute_stream=int(timed["own"].sum()),
        unknown=unknown,
        total_ns=total,
        exposed_ns=exposed if known else None,
        share=exposed / total if known and total else None,
        ranks=totals_by_rank(timed["rank"], timed["length"]),
        exposed_ranks=totals_by_rank(timed["rank"], timed["exposed"]) if known else [],
        step_total_ns=in_step / steps if steps else None,
        step_exposed_ns=exposed_in_step / steps if steps and known else None,
        step_share=exposed_in_step / steps_ns if steps_ns and known else None,
        units=exposed_units(calls, units, steps, known),
    )
