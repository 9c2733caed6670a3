"""What each thread of a process was doing when its recording ended: the scopes still open, the last collective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.bandwidth import operation

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class LastCollective:
    """The collective that started last. `state` is "not returned" (the host was still inside the call), "not completed"
    (it had returned, and its end was not seen), "failed" or "completed"; `unit` is "" while it is "not returned". Times
    are ns after the recording began."""

    op: str
    role: str
    unit: str
    group: str
    sequence: int
    begin_ns: int
    state: str


@dataclass(frozen=True)
class LastMoments:
    """One thread: path and begin of its innermost open scope, None where none is open. ns after the recording began."""

    thread: int
    path: str | None
    path_begin_ns: int | None
    collective: LastCollective | None


def last_moments(trace: Trace) -> list[LastMoments]:
    """Threads with an open scope or a collective, in order of their numbers."""
    scopes, calls = trace.scopes, trace.collectives
    began = trace.header["start_monotonic"]
    innermost = _last_by_thread(scopes["thread"], np.flatnonzero(scopes["open"]))
    last_call = _last_by_thread(calls["thread"], np.arange(len(calls)))
    return [
        LastMoments(
            thread=thread,
            path=trace.paths[scopes["path"][innermost[thread]]] if thread in innermost else None,
            path_begin_ns=int(scopes["begin"][innermost[thread]]) - began if thread in innermost else None,
            collective=_describe(trace, last_call[thread]) if thread in last_call else None,
        )
        for thread in sorted({*innermost, *last_call})
    ]


def _last_by_thread(threads: np.ndarray, rows: np.ndarray) -> dict[int, int]:
    """thread -> the last of the rows, which are in order of begin: of open scopes that is the innermost."""
    found, place = np.unique(threads[rows][::-1], return_index=True)
    return {int(thread): int(rows[len(rows) - 1 - at]) for thread, at in zip(found, place, strict=True)}


def _describe(trace: Trace, row: int) -> LastCollective:
    call = trace.collectives[row]
    group = trace.groups.get(int(call["group"]))
    if call["failed"]:
        state = "failed"
    elif call["completed"] >= 0 or call["gpu_end"] >= 0:
        state = "completed"
    else:
        state = "not completed" if call["returned"] >= 0 else "not returned"
    return LastCollective(
        op=operation(trace.strings[call["op"]]).name,
        role=trace.strings[call["role"]],
        unit=trace.strings[call["unit"]],
        group=(group.description or group.name) if group else "",
        sequence=int(call["sequence"]),
        begin_ns=int(call["begin"]) - trace.header["start_monotonic"],
        state=state,
    )
