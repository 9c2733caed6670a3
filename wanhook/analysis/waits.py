"""Wait scopes: how long a compute stream stood still in them, and for which collectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.bandwidth import operation
from wanhook.analysis.exposure import exposed_intervals, on_compute_stream, scope_intervals, waits
from wanhook.analysis.ranks import RankTotal, on_gpu, rank_of

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class WaitRow:
    """Wait scopes of one name; times are sums over the ranks, and `ranks` holds each of them. `waited_for` splits
    `total_ns` by the op and role that was exposed then; `nothing_ns` is the rest: the host was late, or the stream
    waited for work that was not recorded as a collective or has no time. `untimed` waits have none themselves."""

    name: str
    clock: str
    untimed: int
    total_ns: int
    waited_for: dict[str, int]
    nothing_ns: int
    ranks: list[RankTotal]


def wait_table(traces: Sequence[Trace]) -> list[WaitRow]:
    """Rows by time, largest first."""
    parts = [part for trace in traces for part in _of_trace(trace)]
    names = dict.fromkeys(part.name for part in parts)
    rows = [_joined([part for part in parts if part.name == name]) for name in names]
    return sorted(rows, key=lambda row: -row.total_ns)


def _of_trace(trace: Trace) -> list[WaitRow]:
    rows = waits(trace)
    begin, end = scope_intervals(trace, rows)
    exposed = exposed_intervals(trace) if len(rows) else None
    found = []
    for name in np.unique(rows["name"]):
        own = rows["name"] == name
        timed = own & (begin >= 0)
        total, waited_for = int((end - begin)[timed].sum()), _waited_for(trace, exposed, begin, end, rows, timed)
        found.append(
            WaitRow(
                name=trace.strings[name],
                clock="gpu" if on_gpu(trace) else "host",
                untimed=int((own & ~timed).sum()),
                total_ns=total,
                waited_for=waited_for,
                nothing_ns=total - sum(waited_for.values()),
                ranks=[RankTotal(rank_of(trace), int(timed.sum()), total)],
            )
        )
    return found


def _waited_for(trace: Trace, exposed, begin: np.ndarray, end: np.ndarray, rows, timed) -> dict[str, int]:
    """op and role -> ns of the waits (`timed`, a choice of `rows`) in which such a collective was exposed.

    What a compute stream carries itself can only be in the waits of that very stream, on the host of that thread; two
    that wait for one call both wait for it.
    """
    calls = trace.collectives
    own, lane = on_compute_stream(trace), "stream" if on_gpu(trace) else "thread"
    lengths = np.zeros(len(calls), np.int64)
    for device, one in np.unique(rows[["device", lane]][timed]).tolist():
        here = timed & (rows["device"] == device) & (rows[lane] == one)
        at = (calls["device"] == device) & (~own | (calls[lane] == one))
        spans = intervals.of(begin[here], end[here])
        lengths[at] += intervals.overlap(exposed[0][at], exposed[1][at], spans)
    kinds, kind = np.unique((calls["op"].astype(np.int64) << 16) | calls["role"], return_inverse=True)
    sums = np.zeros(len(kinds), np.int64)
    np.add.at(sums, kind, lengths)
    found: dict[str, int] = {}
    for one, length in zip(kinds.tolist(), sums.tolist(), strict=True):
        name = f"{operation(trace.strings[one >> 16]).name} {trace.strings[one & 0xFFFF]}".strip()
        found[name] = found.get(name, 0) + length
    return {name: length for name, length in sorted(found.items(), key=lambda part: -part[1]) if length}


def _joined(parts: list[WaitRow]) -> WaitRow:
    waited_for: dict[str, int] = {}
    for part in parts:
        for name, length in part.waited_for.items():
            waited_for[name] = waited_for.get(name, 0) + length
    ranks: dict[int, RankTotal] = {}
    for one in (rank for part in parts for rank in part.ranks):
        before = ranks.get(one.rank, RankTotal(one.rank, 0, 0))
        ranks[one.rank] = RankTotal(one.rank, before.count + one.count, before.total_ns + one.total_ns)
    clocks = {part.clock for part in parts}
    return WaitRow(
        name=parts[0].name,
        clock=clocks.pop() if len(clocks) == 1 else "mixed",
        untimed=sum(part.untimed for part in parts),
        total_ns=sum(part.total_ns for part in parts),
        waited_for=waited_for,
        nothing_ns=sum(part.nothing_ns for part in parts),
        ranks=[ranks[rank] for rank in sorted(ranks)],
    )
