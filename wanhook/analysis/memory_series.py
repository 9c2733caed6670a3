"""A device's memory over time, reduced to a bounded number of rows without losing an extreme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

MAX_ROWS = 512
FIGURES = ("requested", "allocated", "active", "reserved", "inactive_split", "free", "largest_free")
_ON_CPU = FIGURES[:3]


@dataclass(frozen=True)
class Series:
    """Columns of equal length, at most MAX_ROWS. Row i stands for the states from `time_ns[i]` to `until_ns[i]` (after
    the recording began), reached by equal numbers of events: `least[figure][i]` and `most[figure][i]` are the extremes
    of a figure in bytes. What rests on segments is not there on the CPU."""

    time_ns: list[int]
    until_ns: list[int]
    least: dict[str, list[int]]
    most: dict[str, list[int]]


def memory_series(trace: Trace, timeline: AllocatorTimeline) -> Series:
    """From the first known state on."""
    positions = len(timeline.counters) - timeline.start
    edges = np.unique(
        np.linspace(timeline.start, len(timeline.counters), min(positions, MAX_ROWS) + 1).astype(np.int64)
    )
    first, last = edges[:-1], edges[1:] - 1
    began = trace.header["start_monotonic"]
    names = FIGURES if timeline.on_gpu else _ON_CPU
    # A stretch at a time: all figures of it then come from the processor's cache.
    stretches = [timeline.counters[begin : end + 1] for begin, end in zip(first, last, strict=True)]
    extremes = [[(part[name].min(), part[name].max()) for name in names] for part in stretches]
    table = np.array(extremes, np.int64).reshape(len(first), len(names), 2)
    return Series(
        time_ns=(timeline.times(first) - began).tolist(),
        until_ns=(timeline.times(last) - began).tolist(),
        least={name: table[:, column, 0].tolist() for column, name in enumerate(names)},
        most={name: table[:, column, 1].tolist() for column, name in enumerate(names)},
    )
