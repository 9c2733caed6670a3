"""What the samples at stage edges say beside the allocator's events: memory outside of torch, and retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.moments import path_of
from wanhook.tracefile.format import SampleEdge

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_MOST_BYTES = np.uint64(1 << 62)  # beyond it a sample is damaged; cut, so that differences stay within int64


@dataclass(frozen=True)
class Sampled:
    """A figure where it was sampled: `edge` ("begin" or "end" of the scope `path`, else "start", "stop", "periodic"),
    `at_ns` after the recording began."""

    bytes: int
    at_ns: int
    edge: str
    path: str | None


@dataclass(frozen=True)
class DeviceUse:
    """`used` is total - free of the whole device where it was largest. `outside_most` and `outside_least` are that less
    what torch had reserved in this process: contexts, libraries, NCCL, other processes."""

    samples: int
    total_bytes: int
    used: Sampled
    outside_most: Sampled
    outside_least: Sampled


@dataclass(frozen=True)
class Retries:
    """Allocations that emptied the cache and tried again, and those that failed, from the first to the last sample. By
    stage (innermost scope path that was sampled): retries between its begin and its end."""

    retries: int
    ooms: int
    by_path: dict[str, int]


def device_use(trace: Trace, device: int) -> DeviceUse | None:
    """None where the driver was never asked."""
    samples = trace.memory_samples
    samples = samples[(samples["device"] == device) & (samples["device_total"] > 0)]
    if not len(samples):
        return None
    total, free, reserved = (
        np.minimum(samples[name], _MOST_BYTES).astype(np.int64) for name in ("device_total", "device_free", "reserved")
    )
    used = total - free
    outside = used - reserved

    def at(row: int, values: np.ndarray) -> Sampled:
        return _sampled(trace, samples[row], int(values[row]))

    return DeviceUse(
        samples=len(samples),
        total_bytes=int(total.max()),
        used=at(int(np.argmax(used)), used),
        outside_most=at(int(np.argmax(outside)), outside),
        outside_least=at(int(np.argmin(outside)), outside),
    )


_EDGES = {SampleEdge.SCOPE_BEGIN: "begin", SampleEdge.SCOPE_END: "end"}


def _sampled(trace: Trace, sample: np.void, size: int) -> Sampled:
    edge = int(sample["edge"])
    known = _EDGES.get(edge) or (SampleEdge(edge).name.lower() if edge in set(SampleEdge) else f"unknown {edge}")
    began = trace.header["start_monotonic"]
    return Sampled(size, int(sample["time"]) - began, known, path_of(trace, int(sample["scope"])))


def retries_of(trace: Trace, device: int) -> Retries | None:
    """None without two samples of the allocator's counters."""
    counters = trace.allocator_samples[trace.allocator_samples["device"] == device]
    if len(counters) < 2:
        return None
    first, last = counters[0], counters[-1]
    return Retries(
        retries=max(int(last["retries"]) - int(first["retries"]), 0),
        ooms=max(int(last["ooms"]) - int(first["ooms"]), 0),
        by_path=_by_path(trace, device, counters),
    )


def _by_path(trace: Trace, device: int, counters: np.ndarray) -> dict[str, int]:
    """Retries between consecutive samples, for the innermost stage that was open then."""
    edges = trace.memory_samples[trace.memory_samples["device"] == device]
    grown = np.flatnonzero(np.diff(counters["retries"].astype(np.int64)) > 0)
    found: dict[str, int] = {}
    for row in grown.tolist():
        more = int(counters["retries"][row + 1]) - int(counters["retries"][row])
        path = _between(trace, edges, int(counters["time"][row]), int(counters["time"][row + 1]))
        found[path] = found.get(path, 0) + more
    return found


def _between(trace: Trace, edges: np.ndarray, begin: int, end: int) -> str:
    """The stage whose begin is at `begin` or whose end is at `end`: between two neighbouring samples at least one of
    these is the innermost stage, if any was open."""
    for at, edge in ((begin, SampleEdge.SCOPE_BEGIN), (end, SampleEdge.SCOPE_END)):
        row = int(np.searchsorted(edges["time"], at))
        if row < len(edges) and edges["time"][row] == at and edges["edge"][row] == edge:
            return path_of(trace, int(edges["scope"][row])) or ""
    return _innermost(trace, begin)


def _innermost(trace: Trace, at: int) -> str:
    scopes = trace.scopes
    end = np.where(scopes["end"] >= 0, scopes["end"], np.iinfo(np.int64).max)
    rows = np.flatnonzero((scopes["begin"] <= at) & (end > at) & (scopes["level"] == 0))
    return trace.paths[scopes["path"][rows[-1]]] if len(rows) else ""
