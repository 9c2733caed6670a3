"""How much of the time inside a scope collectives fill: on the scope's own stream, and beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.bandwidth import operation
from wanhook.analysis.collectives import timed_intervals
from wanhook.analysis.ranks import on_gpu, rank_of
from wanhook.tracefile.format import CollectiveFlags, ScopeVerify

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

OWN, OTHER = "own stream", "other streams"
ALL = ""


@dataclass(frozen=True)
class CollectiveShare:
    """Share (0 to 1) of the time inside scopes of a path during which a timed collective of an op and role is on, mean
    over the ranks that have the scope. `name` is op and role, "" for all together, where a moment counts once.

    `where`: "own stream" for calls on the stream of the scope, which waits for them (on the CPU: those that are not
    asynchronous), else "other streams".
    """

    where: str
    name: str
    share: float


def collective_shares(traces: Sequence[Trace], path: str) -> list[CollectiveShare]:
    """Shares of the path, largest first; empty where no scope of it has an interval."""
    whole: Counter[int] = Counter()
    filled: dict[int, Counter[tuple[str, str]]] = {}
    for trace in traces:
        length, parts = _filled(trace, path)
        if length:
            whole[rank_of(trace)] += length
            filled.setdefault(rank_of(trace), Counter()).update(parts)
    keys = sorted({key for parts in filled.values() for key in parts})
    found = [CollectiveShare(*key, sum(filled[rank][key] / whole[rank] for rank in whole) / len(whole)) for key in keys]
    return sorted(found, key=lambda part: -part.share)


def _filled(trace: Trace, path: str) -> tuple[int, Counter[tuple[str, str]]]:
    """How long scopes of the path are on, ns, and of that each `where` and name. Devices of a process are added up:
    calls on one that has such scopes belong to these alone."""
    whole, found = 0, Counter()
    stretches = _stretches(trace, path)
    if not stretches:
        return whole, found
    begin, end, gpu = timed_intervals(trace)
    calls = trace.collectives
    kinds, kind = np.unique((calls["op"].astype(np.int64) << 16) | calls["role"], return_inverse=True)
    names = [_name(trace, packed) for packed in kinds.tolist()]
    members = {name: np.isin(kind, [at for at, other in enumerate(names) if other == name]) for name in names}
    members[ALL] = np.ones(len(calls), bool)
    elsewhere = ~np.isin(calls["device"], list(stretches))
    for device, (inside, streams) in stretches.items():
        whole += intervals.coverage(inside)
        at = calls["device"] == device
        here = (begin >= 0) & (at | elsewhere)
        own = (at & np.isin(calls["stream"], streams)) | (calls["device"] < 0)
        own &= (calls["flags"] & CollectiveFlags.ASYNC) == 0
        # A stream that waits for its call's turn does nothing else.
        spans = intervals.of(np.where(own & gpu, calls["gpu_begin"], begin), end)
        for where, chosen in ((OWN, here & own), (OTHER, here & ~own)):
            for name, rows in members.items():
                if (chosen & rows).any():
                    covered = intervals.intersection(spans[chosen & rows], inside)
                    found[where, name] += intervals.coverage(covered)
    return whole, found


def _stretches(trace: Trace, path: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """When scopes of a path are on, as a set of intervals, and their streams, by device. What a muted step held is not
    known."""
    scopes = trace.scopes[trace.scopes["verify"] != ScopeVerify.MUTED]
    rows = scopes[np.isin(scopes["path"], [at for at, text in enumerate(trace.paths) if text == path])]
    begin, end = ("gpu_begin", "gpu_end") if on_gpu(trace) else ("begin", "end")
    rows = rows[(rows[begin] >= 0) & (rows[end] > rows[begin])]
    found = {}
    for device in np.unique(rows["device"]).tolist():
        own = rows[rows["device"] == device]
        found[device] = intervals.union(intervals.of(own[begin], own[end])), np.unique(own["stream"])
    return found


def _name(trace: Trace, packed: int) -> str:
    return f"{operation(trace.strings[packed >> 16]).name} {trace.strings[packed & 0xFFFF]}".strip()
