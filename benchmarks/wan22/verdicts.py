"""The criteria of the acceptance run, from the measured requests and the recordings of all ranks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import expected
from .measurement import Measured
from .sizes import Size

_MIB = 1 << 20
_SHOWN = 6  # differences named in one detail


@dataclass
class Verdict:
    """One criterion. `passed` is None where it could not be looked at, and `detail` says why."""

    name: str
    passed: bool | None
    detail: str


def judge_requests(requests: list[list[Measured]]) -> list[Verdict]:
    """The criteria that compare recorded with unrecorded requests; `requests[rank]` are one rank's, in order."""

    def split(rank, field):
        values = {True: [], False: []}
        for request in requests[rank]:
            values[request.observer != "none"].append(getattr(request, field))
        return values[True], values[False]

    ranks = range(len(requests))
    digests = {request.latents for rank in ranks for request in requests[rank]}
    verdicts = [Verdict("latents equal", len(digests) == 1, f"{len(digests)} different over all ranks and requests")]
    if not any(request.allocated_peak for request in requests[0]):
        return [*verdicts, Verdict("allocator peaks", None, "no GPU")]
    peaks = [split(rank, "allocated_peak") for rank in ranks]
    verdicts.append(
        Verdict(
            "allocated peak equal",
            all(len({*with_, *without}) == 1 for with_, without in peaks),
            "; ".join(_spread(rank, *peaks[rank]) for rank in ranks),
        )
    )
    peaks = [split(rank, "reserved_peak") for rank in ranks]
    usual = [value for _, without in peaks for value in without]
    verdicts.append(
        Verdict(
            "reserved peak in range",
            all(min(usual) <= value <= max(usual) for with_, _ in peaks for value in with_),
            "; ".join(_spread(rank, *peaks[rank]) for rank in ranks),
        )
    )
    return verdicts


def _spread(rank: int, recorded: list[int], unrecorded: list[int]) -> str:
    def show(values):
        if not values:
            return "none"
        low, high = min(values) / _MIB, max(values) / _MIB
        return f"{low:.3f}" if low == high else f"{low:.3f}..{high:.3f}"

    return f"rank {rank}: {show(recorded)} recorded, {show(unrecorded)} not (MiB)"


def judge_recordings(folders: list[Path], size: Size, requests: list[list[Measured]], *, roles: bool) -> list[Verdict]:
    """Compare every recording with what Wan's code implies and with torch's own counters.

    `folders[n]` holds the n-th recorded request of every rank; without `roles` collectives are compared by op alone.
    """
    on_gpu = bool(requests[0][0].allocated_peak)
    wanted = expected.expected_counts(size.layers, size.steps, size.t5_layers, len(requests), on_gpu=on_gpu)
    recorded = [[one for one in rank if one.observer != "none"] for rank in requests]
    incomplete, collectives, events = [], [], []
    for number, folder in enumerate(folders):
        run = _settled(folder)
        incomplete += [f"{folder.name}: {problem}" for problem in run.problems]
        incomplete += [f"{folder.name}: {len(run.traces)} traces"] * (len(run.traces) != len(requests))
        for trace in run:
            where = f"{folder.name} rank {trace.rank}"
            incomplete += _unhealthy(where, trace.health)
            found = expected.recorded_collectives(trace)
            collectives += (
                _differences(where, found, wanted)
                if roles
                else _differences(where, expected.by_op(found), expected.by_op(wanted))
            )
            if on_gpu:
                seen = expected.recorded_allocator_events(trace, trace.meta["device"]["index"])
                events += _differences(where, seen, recorded[trace.rank][number].allocator_events)
    return [
        _verdict("recordings whole", incomplete, f"{len(folders)} x {len(requests)} files"),
        _verdict("collectives as derived", collectives, f"{sum(wanted.values())} a rank: {_show(wanted)}"),
        _verdict("allocator events", events, f"rank 0, last: {_show(recorded[0][-1].allocator_events)}")
        if on_gpu
        else Verdict("allocator events", None, "no GPU"),
    ]


def judge_replays(folders: list[Path], *, on_gpu: bool) -> Verdict:
    """Whether the replay of every rank's events equals torch's own counters at every sample, which are taken at the
    edges of stages, and torch's state at the end."""
    name = "memory replay exact"
    if not on_gpu:
        return Verdict(name, None, "no GPU")
    from wanhook.analysis.device_replay import DeviceReplay
    from wanhook.analysis.replay_check import check_replay
    from wanhook.tracefile.format import SampleEdge

    problems, places = [], []
    for folder in folders:
        for trace in _settled(folder):
            where = f"{folder.name} rank {trace.rank}"
            result = check_replay(trace, DeviceReplay(trace, trace.meta["device"]["index"]))
            edges = int(np.isin(trace.memory_samples["edge"], [SampleEdge.SCOPE_BEGIN, SampleEdge.SCOPE_END]).sum())
            places.append(result.places)
            problems += [f"{where}: {reason}" for reason in result.refused]
            if result.first_difference is not None or result.equal != result.places:
                problems.append(f"{where}: {result.equal} of {result.places} equal, first {result.first_difference}")
            if result.places <= edges or not edges:
                problems.append(f"{where}: compared at {result.places} places, with {edges} samples of stage edges")
    return _verdict(name, problems, f"{min(places, default=0)} to {max(places, default=0)} places a file, all equal")


def _settled(folder: Path, patience: float = 5.0):
    """The run, once its last spans are written: after a recording they are resolved in the background."""
    import wanhook

    deadline = time.monotonic() + patience
    run = wanhook.load(str(folder))
    while any(trace.health.state == "recording" for trace in run) and time.monotonic() < deadline:
        time.sleep(0.1)
        run = wanhook.load(str(folder))
    return run


def _unhealthy(where: str, health) -> list[str]:
    whole = health.state == "stopped" and not (health.dropped or health.unresolved or health.damage)
    return (
        []
        if whole
        else [
            f"{where}: {health.state}, {health.dropped} dropped, {health.unresolved} unresolved, "
            f"{len(health.damage)} damaged places"
        ]
    )


def _verdict(name: str, problems: list[str], otherwise: str) -> Verdict:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return Verdict(name, not problems, "; ".join(problems[:_SHOWN]) + more if problems else otherwise)


def _differences(where: str, found: dict, wanted: dict) -> list[str]:
    return [
        f"{where}: {_name(key)} {found.get(key, 0)}, expected {wanted.get(key, 0)}"
        for key in sorted({*found, *wanted})
        if found.get(key, 0) != wanted.get(key, 0)
    ]


def _name(key) -> str:
    return key if isinstance(key, str) else "/".join(part for part in key if part)


def _show(counts: dict) -> str:
    return ", ".join(f"{_name(key)} {count}" for key, count in sorted(counts.items()))
