"""How much of the time inside a scope collectives fill: on the scope's own stream, and beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.bandwidth import operation
from wanhook.analysis.collectives import timed_intervals
from wanhook.analysis.ranks import on_gpu
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
    parts = [part for trace in traces if (part := _shares(trace, path)) is not None]
    keys = sorted({key for part in parts for key in part})
    found = [CollectiveShare(*key, sum(part.get(key, 0.0) for part in parts) / len(parts)) for key in keys]
    return sorted(found, key=lambda part: -part.share)


def _shares(trace: Trace, path: str) -> dict[tuple[str, str], float] | None:
    inside, streams = _stretches(trace, path)
    whole = intervals.coverage(inside)
    if not whole:
        return None
    begin, end, gpu = timed_intervals(trace)
    calls = trace.collectives
    own = np.isin(calls["stream"], streams) | (calls["device"] < 0)
    own &= (calls["flags"] & CollectiveFlags.ASYNC) == 0
    # A stream that waits for its call's turn does nothing else.
    spans = intervals.of(np.where(own & gpu, calls["gpu_begin"], begin), end)
    kinds, kind = np.unique((calls["op"].astype(np.int64) << 16) | calls["role"], return_inverse=True)
    names = [_name(trace, packed) for packed in kinds.tolist()]
    found = {}
    for where, chosen in ((OWN, own & (begin >= 0)), (OTHER, ~own & (begin >= 0))):
        members = {name: [at for at, other in enumerate(names) if other == name] for name in names}
        picked = {name: chosen & np.isin(kind, which) for name, which in members.items()} | {ALL: chosen}
        for name, rows in picked.items():
            if rows.any():
                found[where, name] = intervals.coverage(intervals.intersection(spans[rows], inside)) / whole
    return found


def _stretches(trace: Trace, path: str) -> tuple[np.ndarray, np.ndarray]:
    """When scopes of a path are on, as a set of intervals, and their streams. What a muted step held is not known."""
    scopes = trace.scopes[trace.scopes["verify"] != ScopeVerify.MUTED]
    rows = scopes[np.isin(scopes["path"], [at for at, text in enumerate(trace.paths) if text == path])]
    begin, end = ("gpu_begin", "gpu_end") if on_gpu(trace) else ("begin", "end")
    rows = rows[(rows[begin] >= 0) & (rows[end] >= 0)]
    return intervals.union(intervals.of(rows[begin], rows[end])), np.unique(rows["stream"])


def _name(trace: Trace, packed: int) -> str:
    return f"{operation(trace.strings[packed >> 16]).name} {trace.strings[packed & 0xFFFF]}".strip()
