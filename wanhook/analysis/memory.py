"""Memory of each device: peaks, their owners, peaks inside scopes, and how that agrees with torch's own counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.block_lifetimes import BEFORE_RECORDING, MOST_BYTES, NOT_RECORDED
from wanhook.analysis.ranks import rank_of
from wanhook.tracefile.format import AllocatorAction

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_OUTSIDE, _UNKNOWN = 0, -3
_KINDS = {
    BEFORE_RECORDING: "before recording",
    NOT_RECORDED: "while not recording",
    _OUTSIDE: "outside scopes",
    _UNKNOWN: "unknown scope",
}


@dataclass(frozen=True)
class Owner:
    """Live requested bytes by where they were allocated. `kind` is "scope" (then `path` names it), "outside scopes",
    "before recording", "while not recording" (paused, or records were lost) or "unknown scope" (its begin is lost)."""

    kind: str
    path: str | None
    bytes: int
    blocks: int


@dataclass(frozen=True)
class Moment:
    """A device after one of its events, `at_ns` after the recording began (host time): the path of the scope that the
    event fell into, bytes reserved (None on the CPU) and requested, and the owners of the latter, largest first."""

    at_ns: int
    path: str | None
    reserved_bytes: int | None
    requested_bytes: int
    owners: list[Owner]


@dataclass(frozen=True)
class ScopePeak:
    """Peaks while scopes of a path were open, the largest over its occurrences. `requested_rise_bytes` is the most that
    the peak of one occurrence lay above the bytes live at its begin."""

    path: str
    occurrences: int
    requested_bytes: int
    requested_rise_bytes: int
    reserved_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """Ours against what torch counted at the same places: how many places, at how many equal, largest difference."""

    places: int
    equal: int
    largest_difference_bytes: int


@dataclass(frozen=True)
class OutOfMemory:
    """An allocation that failed, `at_ns` after the recording began: path, bytes asked for, bytes free on the device."""

    at_ns: int
    path: str | None
    requested_bytes: int
    device_free_bytes: int


@dataclass(frozen=True)
class DeviceMemory:
    """One device in one trace. `reserved_*` and `reserved_peak` are None on the CPU. `torch_*` are the largest of
    torch's counters as sampled, None without samples; `device_used_bytes` is the largest use of the device by all
    processes that was sampled. `inexact` says why figures may differ from the truth; empty when nothing is known."""

    rank: int
    device: int
    events: int
    reserved_start_bytes: int | None
    reserved_end_bytes: int | None
    requested_start_bytes: int
    requested_end_bytes: int
    requested_peak: Moment
    reserved_peak: Moment | None
    scopes: list[ScopePeak]
    torch_allocated_bytes: int | None
    torch_reserved_bytes: int | None
    device_used_bytes: int | None
    compared_requested: Comparison | None
    compared_reserved: Comparison | None
    out_of_memory: list[OutOfMemory]
    inexact: list[str]


def memory_of(traces: Iterable[Trace]) -> list[DeviceMemory]:
    """One value a trace and device with allocator events, states or samples, in the order of the traces."""
    found = []
    for trace in traces:
        devices = {int(device) for device in np.unique(trace.allocator_events["device"])}
        devices |= {snapshot.device for snapshot in trace.snapshots}
        found += [_device_memory(trace, device) for device in sorted(devices)]
    return found


def _device_memory(trace: Trace, device: int) -> DeviceMemory:
    timeline = AllocatorTimeline(trace, device)
    samples = trace.memory_samples[trace.memory_samples["device"] == device]
    on_gpu = timeline.reserved_values is not None
    return DeviceMemory(
        rank=rank_of(trace),
        device=device,
        events=len(timeline.events),
        reserved_start_bytes=int(timeline.reserved(np.array([timeline.start]))[0]) if on_gpu else None,
        reserved_end_bytes=int(timeline.reserved_values[-1]) if on_gpu else None,
        requested_start_bytes=int(timeline.live[timeline.start]),
        requested_end_bytes=int(timeline.live[-1]),
        requested_peak=_moment(trace, timeline, int(np.argmax(timeline.live))),
        reserved_peak=_moment(trace, timeline, timeline.reserved_peak()) if on_gpu else None,
        scopes=_scope_peaks(trace, timeline),
        torch_allocated_bytes=_largest(samples["allocated"]),
        torch_reserved_bytes=_largest(samples["reserved"]) if on_gpu else None,
        device_used_bytes=_largest((samples["device_total"] - samples["device_free"])[samples["device_total"] > 0]),
        compared_requested=_compare(timeline, samples, "requested"),
        compared_reserved=_compare(timeline, samples, "reserved") if on_gpu else None,
        out_of_memory=_out_of_memory(trace, timeline),
        inexact=_inexact(trace, timeline),
    )


def _path_of(trace: Trace, scope: int) -> str | None:
    path = int(trace.path_of(np.array([scope]))[0])
    return trace.paths[path] if path >= 0 else None


def _largest(values: np.ndarray) -> int | None:
    return int(values.max()) if len(values) else None


def _moment(trace: Trace, timeline: AllocatorTimeline, position: int) -> Moment:
    reserved = timeline.reserved_values is not None
    return Moment(
        at_ns=timeline.time(position) - trace.header["start_monotonic"],
        path=_path_of(trace, timeline.scope(position)),
        reserved_bytes=int(timeline.reserved(np.array([position]))[0]) if reserved else None,
        requested_bytes=int(timeline.live[position]),
        owners=_owners(trace, timeline, position),
    )


def _owners(trace: Trace, timeline: AllocatorTimeline, position: int) -> list[Owner]:
    lives = timeline.lives
    alive = lives.alive(position)
    scopes, place = np.unique(lives.scope[alive], return_inverse=True)
    paths = trace.path_of(scopes)
    # Paths count up from 0; what has none goes to the negative numbers below.
    owner = np.where(scopes < 0, scopes - 1, np.where(scopes == 0, -1, np.where(paths >= 0, paths, _UNKNOWN - 1)))
    owners, merged = np.unique(owner, return_inverse=True)
    blocks = np.bincount(merged[place], minlength=len(owners))
    sizes = np.bincount(merged[place], lives.size[alive], len(owners)).astype(np.int64)
    found = [
        Owner("scope" if who >= 0 else _KINDS[who + 1], trace.paths[who] if who >= 0 else None, int(size), int(count))
        for who, size, count in zip(owners.tolist(), sizes, blocks, strict=True)
    ]
    return sorted(found, key=lambda owner: -owner.bytes)


def _scope_peaks(trace: Trace, timeline: AllocatorTimeline) -> list[ScopePeak]:
    scopes = trace.scopes
    last = len(timeline.events)
    last_position = np.where(scopes["end"] >= 0, timeline.positions(scopes["end"], "right"), last)
    # A scope that was open before the first snapshot begins, as far as memory is known, with it.
    first_position = np.maximum(timeline.positions(scopes["begin"], "left"), timeline.start)
    last_position = np.maximum(first_position, last_position)
    requested = timeline.largest_live(first_position, last_position)
    rise = requested - timeline.live[first_position]
    on_gpu = timeline.reserved_values is not None
    reserved = timeline.largest_reserved(first_position, last_position) if on_gpu else np.zeros(len(scopes), np.int64)
    order = np.argsort(scopes["path"], kind="stable")
    paths, starts, counts = np.unique(scopes["path"][order], return_index=True, return_counts=True)
    if len(paths) == 0:
        return []
    columns = [np.maximum.reduceat(values[order], starts).tolist() for values in (requested, rise, reserved)]
    return [
        ScopePeak(trace.paths[path], count, most, risen, held if on_gpu else None)
        for path, count, most, risen, held in zip(paths, counts.tolist(), *columns, strict=True)
    ]


def _compare(timeline: AllocatorTimeline, samples: np.ndarray, field: str) -> Comparison | None:
    """At the samples, and at the states that were written to be compared with."""
    positions = timeline.positions(samples["time"], "right")
    truth = samples[field].astype(np.int64)
    if timeline.checks:
        positions = np.concatenate([positions, [position for position, _ in timeline.checks]])
        truth = np.concatenate([truth, [min(getattr(snapshot, field), MOST_BYTES) for _, snapshot in timeline.checks]])
    if len(positions) == 0:
        return None
    ours = timeline.live[positions] if field == "requested" else timeline.reserved(positions)
    difference = np.abs(ours - truth)
    return Comparison(len(positions), int((difference == 0).sum()), int(difference.max()))


def _out_of_memory(trace: Trace, timeline: AllocatorTimeline) -> list[OutOfMemory]:
    began = trace.header["start_monotonic"]
    failed = timeline.events[timeline.events["action"] == AllocatorAction.OOM]
    times, scopes, sizes, free = (failed[name].tolist() for name in ("time", "scope", "size", "address"))
    return [
        OutOfMemory(time - began, _path_of(trace, scope), size, left)
        for time, scope, size, left in zip(times, scopes, sizes, free, strict=True)
    ]


def _inexact(trace: Trace, timeline: AllocatorTimeline) -> list[str]:
    why = []
    if trace.health.dropped:
        why.append(f"records were dropped ({trace.health.dropped})")
    if timeline.device >= 0 and not timeline.base_known:
        why.append("without an initial snapshot, what was allocated before the recording is missing")
    if len(trace.gates) and not trace.gates["open"].all():
        why.append("recording was paused, and peaks inside pauses are not seen")
    if timeline.lives.unknown_frees and timeline.device >= 0 and timeline.base_known:
        why.append(f"frees of blocks that were never seen ({timeline.lives.unknown_frees})")
    if timeline.lives.replaced:
        why.append(f"allocations at an address that was still live ({timeline.lives.replaced})")
    return why
