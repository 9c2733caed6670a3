"""When nothing was recorded, though a recording ran: muted steps of the perturbation check, and pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.tracefile.format import ScopeVerify

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_MARGIN = 1_000_000  # ns


def muted_stretches(trace: Trace) -> np.ndarray:
    """When muted steps were on, by host time, int64[n, 2]."""
    muted = trace.scopes[trace.scopes["verify"] == ScopeVerify.MUTED]
    end = np.where(muted["end"] >= 0, muted["end"], np.iinfo(np.int64).max)
    return intervals.union(intervals.of(muted["begin"], end))


def closed_stretches(trace: Trace) -> np.ndarray:
    """When the gate was closed, by host time, int64[n, 2]; one that was never opened again lasts for ever."""
    times, opened = trace.gates["time"], trace.gates["open"].astype(bool)
    turns = np.flatnonzero(np.append(True, opened[1:] != opened[:-1])[: len(times)])
    times, opened = times[turns], opened[turns]
    closes = np.flatnonzero(~opened)
    ends = np.append(times, np.iinfo(np.int64).max)[closes + 1]
    return intervals.union(intervals.of(times[closes], ends))


def within(spans: np.ndarray, begin: int, end: int) -> np.ndarray:
    """What lies between two moments of a canonical set."""
    first, last = np.searchsorted(spans[:, 1], begin, "right"), np.searchsorted(spans[:, 0], end)
    return np.clip(spans[first:last], begin, end)


def beyond(closed: np.ndarray, muted: np.ndarray) -> int:
    """ns during which the gate was closed for another reason than a muted step. Around one it closes and opens a little
    before and after; such margins count only where there is no muted step or they are long."""
    spare = 0
    for low, high in closed.tolist():
        rest = high - low - intervals.coverage(intervals.intersection(np.array([[low, high]]), muted))
        spare += rest if rest == high - low or rest >= _MARGIN else 0
    return spare
