"""Who waited for whom while loading: host time in collectives and barriers, and what the other ranks did then.

Only ranks that share a clock (a host since its last boot) are compared. On NCCL a call returns before its work is done:
what the host waited for elsewhere (a synchronisation, a copy) is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.loading import Part, parts_of
from wanhook.analysis.ranks import rank_of
from wanhook.tracefile.format import CollectiveFlags
from wanhook.tracefile.names import section

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

BARRIER = "barrier_wait"


@dataclass(frozen=True)
class Meanwhile:
    """For how long, of a wait, `rank` was busy in `component` (in no component inside it, and not waiting itself)."""

    rank: int
    path: str
    component: str
    time_ns: int


@dataclass(frozen=True)
class LoadWait:
    """`waited_ns` of host time that `rank` spent in collectives and barriers in `component`, components inside it left
    out. `meanwhile`: what other ranks were busy with then, longest first."""

    rank: int
    path: str
    component: str
    waited_ns: int
    meanwhile: list[Meanwhile]


@dataclass(frozen=True)
class _Own:
    """A component of a trace: the intervals in it and in no component inside it, those of waiting, the others."""

    part: Part
    waiting: np.ndarray
    busy: np.ndarray


@dataclass(frozen=True)
class _Busy:
    """Everything that all traces were busy with: intervals (shape (n, 2)), the trace's and the component's number of
    each (shape (n,)), and (rank, path, component) by that number."""

    spans: np.ndarray
    trace: np.ndarray
    component: np.ndarray
    names: list[tuple[int, str, str]]


def load_waits(traces: Sequence[Trace]) -> list[LoadWait]:
    """Waits of each component and rank that waited at all, longest first."""
    own = [_own_times(trace) for trace in traces]
    busy = _all_busy(traces, own)
    found = []
    for number, (trace, components) in enumerate(zip(traces, own, strict=True)):
        comparable = [other != number and _share_clock(trace, traces[other]) for other in range(len(traces))]
        for (path, component), waiting in _by_component(components).items():
            waited = intervals.coverage(waiting)
            if waited:
                beside = _meanwhile(waiting, busy, np.array(comparable))
                found.append(LoadWait(rank_of(trace), path, component, waited, beside))
    return sorted(found, key=lambda wait: -wait.waited_ns)


def _by_component(components: list[_Own]) -> dict[tuple[str, str], np.ndarray]:
    found: dict[tuple[str, str], np.ndarray] = {}
    for own in components:
        key = own.part.path, own.part.component
        found[key] = intervals.union(found.get(key, np.empty((0, 2), np.int64)), own.waiting)
    return found


def _all_busy(traces: Sequence[Trace], own: list[list[_Own]]) -> _Busy:
    numbers: dict[tuple[int, str, str], int] = {}
    spans, places = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    for place, (trace, components) in enumerate(zip(traces, own, strict=True)):
        for one in components:
            number = numbers.setdefault((rank_of(trace), one.part.path, one.part.component), len(numbers))
            spans.append(one.busy)
            places.append(np.tile(np.array([[place, number]], np.int64), (len(one.busy), 1)))
    where = np.concatenate(places)
    return _Busy(np.concatenate(spans), where[:, 0], where[:, 1], list(numbers))


def _meanwhile(waiting: np.ndarray, busy: _Busy, comparable: np.ndarray) -> list[Meanwhile]:
    """`waiting` is canonical; `comparable` (bool, by trace) says whose times mean the same."""
    beside = _time_before(waiting, busy.spans[:, 1]) - _time_before(waiting, busy.spans[:, 0])
    times = np.zeros(len(busy.names), np.int64)
    if len(beside):
        np.add.at(times, busy.component, np.where(comparable[busy.trace], beside, 0))
    found = [Meanwhile(*busy.names[number], int(times[number])) for number in np.flatnonzero(times)]
    return sorted(found, key=lambda one: -one.time_ns)


def _time_before(spans: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """How long a canonical set lasts before each moment (ns, the shape of `moments`)."""
    lengths = spans[:, 1] - spans[:, 0]
    before = np.cumsum(lengths) - lengths
    at = np.searchsorted(spans[:, 0], moments, "right") - 1
    inside = np.clip(moments - spans[at, 0], 0, lengths[at])
    return np.where(at >= 0, before[at] + inside, 0)


def _own_times(trace: Trace) -> list[_Own]:
    parts = parts_of(trace)
    if not parts:
        return []
    waits = _host_waits(trace, min(part.begin for part in parts), max(part.end for part in parts))
    found = []
    inside: dict[int, list[tuple[int, int]]] = {}
    for part in parts:
        inside.setdefault(part.parent, []).append((part.begin, part.end))
    for part in parts:
        alone = intervals.subtraction(_set([(part.begin, part.end)]), _set(inside.get(part.scope, [])))
        found.append(_Own(part, intervals.intersection(alone, waits), intervals.subtraction(alone, waits)))
    return found


def _set(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def _host_waits(trace: Trace, begin: int, end: int) -> np.ndarray:
    """Host intervals of synchronous collectives and of barriers that began between two moments (ns)."""
    calls, scopes = trace.collectives, trace.scopes
    blocking = (calls["flags"] & CollectiveFlags.ASYNC) == 0
    calls = calls[blocking & (calls["begin"] >= begin) & (calls["begin"] < end)]
    # Where the backend tells of its completion on the host, the caller waits for that.
    done = np.maximum(calls["returned"], calls["completed"])
    barrier = np.array([name == BARRIER for name in trace.strings] or [False])[scopes["name"]]
    waits = scopes[barrier & (scopes["begin"] >= begin) & (scopes["begin"] < end)]
    return intervals.union(intervals.of(calls["begin"], done), intervals.of(waits["begin"], waits["end"]))


def _share_clock(first: Trace, second: Trace) -> bool:
    boots = [section(trace.meta, "process").get("boot_id") for trace in (first, second)]
    return bool(boots[0]) and boots[0] == boots[1]
