"""Memory of each device: peaks, base, owners, scopes, fragmentation, and everything that can be said of its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook import _replay
from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.deferred_frees import DeferredFrees, deferred_frees
from wanhook.analysis.device_use import DeviceUse, Retries, device_use, retries_of
from wanhook.analysis.fragmentation import Fragmentation, fragmentation
from wanhook.analysis.leaks import Leak, leaks
from wanhook.analysis.memory_base import Base, base_of
from wanhook.analysis.memory_by_scope import ScopeMemory, by_path, scope_memory
from wanhook.analysis.memory_owners import Owner, Sources, owners_at
from wanhook.analysis.memory_series import Series, memory_series
from wanhook.analysis.moments import Moment, moment_at
from wanhook.analysis.out_of_memory import OutOfMemory, out_of_memory
from wanhook.analysis.pins import Pins, pins_at
from wanhook.analysis.ranks import rank_of
from wanhook.analysis.replay_check import ReplayCheck, check_replay
from wanhook.analysis.segment_churn import StageChurn, segment_churn
from wanhook.analysis.twin_check import twin_check

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class Peak:
    """The moment at which a figure first was the largest, and who owned the live bytes then, most bytes first."""

    moment: Moment
    owners: list[Owner]


@dataclass(frozen=True)
class DeviceMemory:
    """One device in one trace. What rests on segments is None, or empty, on the CPU. `inexact` says why figures may
    differ from the truth; empty when nothing is known. Where the replay claims nothing, behind events that contradict
    it or a pause without a state behind it, no peak is looked for: peaks are then those of the rest, so they are
    reached at least. `end_known` is False when the end lies there, and `end` is an estimate."""

    rank: int
    device: int
    events: int
    start: Moment
    end: Moment
    end_known: bool
    allocated_peak: Peak
    reserved_peak: Peak | None
    active_peak_bytes: int
    requested_peak_bytes: int
    base: Base | None
    scopes: list[ScopeMemory]
    fragmentation: Fragmentation | None
    pins: list[Pins]
    churn: list[StageChurn]
    deferred: DeferredFrees | None
    device_use: DeviceUse | None
    retries: Retries | None
    leaks: list[Leak]
    out_of_memory: list[OutOfMemory]
    series: Series
    check: ReplayCheck
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
    on_gpu = timeline.on_gpu
    table = scope_memory(trace, timeline)
    check = check_replay(trace, timeline) if on_gpu else twin_check(trace, timeline)
    return DeviceMemory(
        rank=rank_of(trace),
        device=device,
        events=len(timeline.events),
        start=moment_at(trace, timeline, timeline.start),
        end=moment_at(trace, timeline, len(timeline.events)),
        end_known=bool(timeline.is_claimed(np.array([len(timeline.events)]))[0]),
        allocated_peak=_peak(trace, timeline, timeline.peak("allocated")),
        reserved_peak=_peak(trace, timeline, timeline.peak("reserved")) if on_gpu else None,
        active_peak_bytes=int(timeline.counters["active"][timeline.peak("active")]),
        requested_peak_bytes=int(timeline.counters["requested"][timeline.peak("requested")]),
        base=base_of(trace, timeline),
        scopes=by_path(trace, timeline, table),
        fragmentation=fragmentation(trace, timeline),
        pins=_pins(trace, timeline) if on_gpu else [],
        churn=segment_churn(trace, timeline) if on_gpu else [],
        deferred=deferred_frees(trace, timeline),
        device_use=device_use(trace, device),
        retries=retries_of(trace, device) if on_gpu else None,
        leaks=leaks(trace, timeline, table),
        out_of_memory=out_of_memory(trace, timeline),
        series=memory_series(trace, timeline),
        check=check,
        inexact=_inexact(trace, timeline, check),
    )


def _peak(trace: Trace, timeline: AllocatorTimeline, position: int) -> Peak:
    return Peak(moment_at(trace, timeline, position), owners_at(timeline, position, Sources(trace)))


def _pins(trace: Trace, timeline: AllocatorTimeline) -> list[Pins]:
    named = {
        "reserved peak": timeline.peak("reserved"),
        "largest slack": timeline.peak("slack"),
        "end": len(timeline.events),
    }
    moments: dict[int, list[str]] = {}
    for name, position in named.items():
        moments.setdefault(position, []).append(name)
    return [pins_at(trace, timeline, position, when) for position, when in moments.items()]


def _inexact(trace: Trace, timeline: AllocatorTimeline, check: ReplayCheck) -> list[str]:
    why = list(check.refused)
    if trace.health.dropped:
        why.append(f"records were dropped ({trace.health.dropped})")
    if len(trace.gates) and not trace.gates["open"].all():
        why.append("recording was paused, and peaks inside pauses are not seen")
    if check.contradictions:
        first = timeline.result.contradictions[0]
        at = (timeline.time(int(first["position"])) - trace.header["start_monotonic"]) / 1e9
        kind = _replay.CONTRADICTION_KINDS[int(first["kind"])]
        why.append(f"events contradict the replay ({check.contradictions}, the first after {at:.3f} s: {kind})")
    left_out = sum(high - low for low, high in timeline.unclaimed)
    # Between the end of a pause and its state lie the few events of other threads.
    share = left_out / (len(timeline.counters) - timeline.start)
    if share >= 0.01:
        why.append(f"peaks leave out the {share:.0%} of the allocator's states that are not known for sure")
    return why
