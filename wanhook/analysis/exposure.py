"""Exposed communication: the time during which a compute stream stands still for a collective.

A collective on a compute stream is exposed in full. One on another stream is exposed only while a recorded wait of a
compute stream lasts for it, that is: both are on, and the collective has ended when the wait ends (the wait of a stream
is released by the last thing that it waits for; what goes on behind the release was not waited for). Of several such
collectives a moment belongs to the one that ends last, so that no moment of a wait is counted twice.

On a rank with a GPU a collective on a compute stream lasts for its stream interval, because the stream stands still
while the call waits for its turn too; one on another stream lasts from its turn on. While that one waits for its turn
the wait lasts for the call before it, if that is on, else for none. On other ranks intervals are the host's, which
itself is the compute stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.collectives import timed_intervals
from wanhook.analysis.ranks import on_gpu
from wanhook.tracefile.format import CollectiveFlags, ScopeLevel, ScopeType

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

# How late the end of a collective may seem to lie behind the end of the wait for it: GPU times are mapped through one
# clock but measured against different references; on the host its completion is stamped by another thread.
GPU_SLACK, HOST_SLACK = 10_000, 1_000_000
_DEFAULT_STREAM = 0
_LAST = np.iinfo(np.int64).max


def scope_intervals(trace: Trace, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end) of scopes (a selection of trace.scopes) on the clock of the trace, ns; -1 where one has none."""
    begin, end = (rows["gpu_begin"], rows["gpu_end"]) if on_gpu(trace) else (rows["begin"], rows["end"])
    known = (begin >= 0) & (end >= begin)
    return np.where(known, begin, -1), np.where(known, end, -1)


def waits(trace: Trace) -> np.ndarray:
    """The scopes of type wait (rows of trace.scopes)."""
    return trace.scopes[trace.scopes["type"] == ScopeType.WAIT]


def comparable(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(begin, end, usable) of each collective, shape (n,), ns: as timed_intervals, from its turn on, without those that
    are on another clock than the compute stream, such as a gloo barrier beside a GPU."""
    begin, end, gpu = timed_intervals(trace)
    usable = (begin >= 0) & (gpu == on_gpu(trace))
    return np.where(usable, begin, -1), np.where(usable, end, -1), usable


def lasting(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As comparable, but from the begin of the stream interval on for those on the compute stream, which stands still
    from there."""
    begin, end, usable = comparable(trace)
    still = usable & on_compute_stream(trace) & (trace.collectives["gpu_begin"] >= 0)
    return np.where(still, trace.collectives["gpu_begin"], begin), end, usable


def on_compute_stream(trace: Trace) -> np.ndarray:
    """Which collectives (bool[n]) the compute stream itself carries: issued synchronously (an asynchronous one runs on
    the backend's own stream), on a stream on which stages or waits were recorded; without such scopes on the device,
    on one of any scope; without scopes, on torch's default stream. On the CPU all synchronous ones."""
    calls, scopes = trace.collectives, trace.scopes
    own = (calls["flags"] & CollectiveFlags.ASYNC) == 0
    if not on_gpu(trace):
        return own
    marking = (scopes["level"] == ScopeLevel.STAGE) | (scopes["type"] == ScopeType.WAIT)
    for device in np.unique(calls["device"]):
        here = (scopes["device"] == device) & scopes["timed"]
        chosen = scopes["stream"][here & marking] if (here & marking).any() else scopes["stream"][here]
        streams = np.unique(chosen) if len(chosen) else np.array([_DEFAULT_STREAM], np.uint64)
        at = calls["device"] == device
        own[at] &= np.isin(calls["stream"][at], streams)
    return own


def exposed_intervals(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end) of the exposed part of each collective, shape (n,), ns; equal where it has none or no time.

    On one compute stream the parts of different collectives do not overlap.
    """
    begin, end, usable = lasting(trace)
    own = usable & on_compute_stream(trace)
    exposed_begin, exposed_end = np.where(own, begin, 0), np.where(own, end, 0)
    rows = waits(trace)
    wait_begin, wait_end = scope_intervals(trace, rows)
    slack = GPU_SLACK if on_gpu(trace) else HOST_SLACK
    for device in np.unique(rows["device"]):
        here = rows["device"] == device
        spans = intervals.union(intervals.of(wait_begin[here], wait_end[here]))
        calls = np.flatnonzero(usable & ~own & (trace.collectives["device"] == device))
        exposed_begin[calls], exposed_end[calls] = waited_for(begin[calls], end[calls], spans, slack)
    return exposed_begin, exposed_end


def waited_for(begin: np.ndarray, end: np.ndarray, spans: np.ndarray, slack: int) -> tuple[np.ndarray, np.ndarray]:
    """The part (begin, end; int64[n], ns, equal for none) of each collective for which one of the waits lasts.

    `spans`: the waits, canonical. A collective belongs to the wait in which it ends, else to one that ends at most
    `slack` before it.
    """
    if not len(spans):
        return np.zeros(len(begin), np.int64), np.zeros(len(begin), np.int64)
    which = np.searchsorted(spans[:, 1], end, side="left")
    inside = (which < len(spans)) & (spans[np.minimum(which, len(spans) - 1), 0] < end)
    which = np.where(inside, which, which - 1)
    first, last = np.maximum(begin, spans[which, 0]), np.minimum(end, spans[which, 1])
    waited = (which >= 0) & (last > first) & (end - last <= slack)
    first, last = np.where(waited, first, 0), np.where(waited, last, 0)
    # From the one that ends last to the one that ends first: those before it cover everything from the least of their
    # begins to its end.
    order = np.lexsort((first, last))[::-1]
    taken_from = np.minimum.accumulate(np.r_[_LAST, first[order]])[:-1]
    last[order] = np.maximum(np.minimum(last[order], taken_from), first[order])
    return first, last
