"""The overlap matrix: for how long collectives of two classes are on at the same time, on one rank and device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.bandwidth import operation
from wanhook.analysis.exposure import comparable

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

OTHER = "other communication"
MAX_CLASSES = 8  # those with the most time; roles are the user's to choose, and the matrix is square


@dataclass(frozen=True)
class Overlap:
    """`both_ns` is the time during which some collective of each class is on, summed over the ranks; `share` its part
    of `ns`, the time during which one of class `name` is on."""

    name: str
    beside: str
    ns: int
    both_ns: int
    share: float


def overlaps(traces: Sequence[Trace]) -> list[Overlap]:
    """Each pair of two different classes, both ways; classes by time, largest first. Classes are all_to_all by role,
    all_gather, and all other collectives together."""
    parts = [part for trace in traces for part in _by_device(trace)]
    totals: dict[str, int] = {}
    for part in parts:
        for name, spans in part.items():
            totals[name] = totals.get(name, 0) + intervals.coverage(spans)
    names = sorted((name for name in totals if totals[name]), key=lambda name: -totals[name])[:MAX_CLASSES]
    found = []
    for name in names:
        for beside in (other for other in names if other != name):
            both = sum(_both(part, name, beside) for part in parts)
            found.append(Overlap(name, beside, totals[name], both, both / totals[name]))
    return found


def _both(part: dict[str, np.ndarray], name: str, beside: str) -> int:
    if name not in part or beside not in part:
        return 0
    return intervals.coverage(intervals.intersection(part[name], part[beside]))


def _by_device(trace: Trace) -> list[dict[str, np.ndarray]]:
    """For each device, class -> the canonical set of the times at which a collective of it is on."""
    calls = trace.collectives
    begin, end, usable = comparable(trace)
    kinds, kind = np.unique((calls["op"].astype(np.int64) << 16) | calls["role"], return_inverse=True)
    names: dict[str, int] = {}
    number = [names.setdefault(_class(trace, one >> 16, one & 0xFFFF), len(names)) for one in kinds.tolist()]
    member = np.array(number, np.int64)[kind]
    found = []
    for device in np.unique(calls["device"][usable]):
        here = np.flatnonzero(usable & (calls["device"] == device))
        here = here[np.argsort(member[here], kind="stable")]
        bounds = np.searchsorted(member[here], np.arange(len(names) + 1))
        chosen = {name: here[bounds[at] : bounds[at + 1]] for name, at in names.items()}
        found.append({name: intervals.union(intervals.of(begin[at], end[at])) for name, at in chosen.items()})
    return found


def _class(trace: Trace, op: int, role: int) -> str:
    name = operation(trace.strings[op]).name
    if name == "all_to_all":
        return f"{name} {trace.strings[role]}".strip()
    return name if name == "all_gather" else OTHER
