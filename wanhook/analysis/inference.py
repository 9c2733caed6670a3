"""The record of each request: what was asked for, on what, how long it took, and how much memory it needed.

Settings go through whitelists, by name and by value: a record can be shown to anybody. docs/inference-record.md is its
schema.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.ranks import named, rank_of, recording_of
from wanhook.analysis.request_memory import RequestMemory
from wanhook.analysis.request_times import Gaps, StageTotal, TraceRequests, Window
from wanhook.tracefile.names import section

if TYPE_CHECKING:
    from wanhook.tracefile.model import Run, Trace

SCHEMA = "wanhook.inference_record/1"

# Words are compared with a list: an unknown one could be a prompt or a path.
TASKS = {
    "WanT2V": "t2v",
    "WanI2V": "i2v",
    "WanTI2V": "ti2v",
    "WanFLF2V": "flf2v",
    "WanVace": "vace",
    "WanVaceMP": "vace",
    "WanS2V": "s2v",
    "WanAnimate": "animate",
}
SOLVERS = ("unipc", "dpm++", "euler")
OTHER = "other"
# Arguments of the scope `request` that are numbers or truth values: name there -> name here.
SETTINGS = {
    "width": "width",
    "height": "height",
    "max_area": "max_area",
    "frame_num": "frames",
    "infer_frames": "infer_frames",
    "clip_len": "clip_len",
    "num_repeat": "num_repeat",
    "sampling_steps": "steps",
    "shift": "shift",
    "guide_scale": "guide_scale",
    "guide_scale_2": "guide_scale_2",
    "context_scale": "context_scale",
    "seed": "seed",
    "offload_model": "offload_model",
}
# The same of the scope `load`.
PARALLEL = ("use_sp", "use_usp", "dit_fsdp", "t5_fsdp", "t5_cpu", "init_on_cpu", "convert_model_dtype")


@dataclass(frozen=True)
class RankRecord:
    """One rank's part; seconds, bytes."""

    rank: int
    model_load_s: float | None
    request_s: float
    expert_switch_total_s: float | None
    inference_s: float | None
    steps: int | None
    step_clock: str
    s_per_step: float | None
    steps_per_s: float | None
    first_step_s: float | None
    s_per_later_step: float | None
    reserved_peak: int | None
    allocated_peak: int | None
    stages: dict[str, StageTotal | None]


@dataclass(frozen=True)
class InferenceRecord:
    """See docs/inference-record.md. The times at the top are those of `slowest_rank`, so that they add up."""

    schema: str
    run_id: str
    request: int
    requests: int
    started_unix_ns: int
    complete: bool
    incomplete: list[str]
    task: str | None
    pipeline: str | None
    settings: dict[str, int | float | bool | str]
    parallel: dict[str, int | bool]
    software: dict[str, str]
    slowest_rank: int
    model_load_s: float | None
    expert_switch_total_s: float | None
    inference_s: float | None
    request_s: float
    total_s: float | None
    steps: int | None
    step_clock: str
    s_per_step: float | None
    steps_per_s: float | None
    stages: dict[str, StageTotal | None]
    reserved_peak: int | None
    allocated_peak: int | None
    ranks: list[RankRecord]


def inference_records(run: Run) -> list[InferenceRecord]:
    """One a request, in order of time; requests of the ranks belong together by their number in the recording."""
    together: dict[tuple, list[_Found]] = {}
    for trace in run.traces:
        requests = TraceRequests(trace)
        memory = RequestMemory(trace) if requests.windows else None
        for number, window in enumerate(requests.windows):
            together.setdefault((recording_of(trace), number), []).append(_rank_record(requests, window, memory))
    ordered = sorted(together.values(), key=lambda found: min(_unix(one.window) for one in found))
    return [_record(run, found, number + 1, len(ordered)) for number, found in enumerate(ordered)]


@dataclass(frozen=True)
class _Found:
    window: Window
    record: RankRecord
    gaps: Gaps


def _record(run: Run, found: list[_Found], number: int, count: int) -> InferenceRecord:
    found = sorted(found, key=lambda one: one.record.rank)
    ranks = [one.record for one in found]
    slowest = max(ranks, key=lambda one: (one.request_s, -one.rank))
    first = found[0].window
    pipeline = _asked(first).get("pipeline")
    known = pipeline in tuple(TASKS)
    why = _incomplete(run, found)
    return InferenceRecord(
        schema=SCHEMA,
        run_id=run.run_id,
        request=number,
        requests=count,
        started_unix_ns=min(_unix(one.window) for one in found),
        complete=not why,
        incomplete=why,
        task=None if pipeline is None else TASKS[pipeline] if known else OTHER,
        pipeline=None if pipeline is None else pipeline if known else OTHER,
        settings=_settings(_asked(first)),
        parallel=_parallel(run, first),
        software=_software(first.trace),
        slowest_rank=slowest.rank,
        **{name: getattr(slowest, name) for name in _OF_SLOWEST},
        total_s=None if slowest.model_load_s is None else slowest.model_load_s + slowest.request_s,
        reserved_peak=_largest(one.reserved_peak for one in ranks),
        allocated_peak=_largest(one.allocated_peak for one in ranks),
        ranks=ranks,
    )


_OF_SLOWEST = (
    "model_load_s", "expert_switch_total_s", "inference_s", "request_s", "steps", "step_clock", "s_per_step",
    "steps_per_s", "stages",
)  # fmt: skip


def _rank_record(requests: TraceRequests, window: Window, memory: RequestMemory) -> _Found:
    times, gaps = requests.times(window), requests.gaps(window)
    steps, spent = times.steps, sum(times.steps)
    request_s = (window.end - window.begin) / 1e9
    switches = times.stages["expert_switch_total"]
    switched = None if switches is None else switches.host_s or 0.0
    # What was allocated and freed while nothing was recorded is not known, so neither is the largest of all.
    peaks = None if gaps.hidden else memory.peaks(window.begin, window.end)
    later = steps[1:] if times.first_is_known else steps
    record = RankRecord(
        rank=rank_of(window.trace),
        model_load_s=times.load_s,
        request_s=request_s,
        expert_switch_total_s=switched,
        inference_s=None if switched is None else request_s - switched,
        steps=times.step_count,
        step_clock=times.step_clock,
        s_per_step=spent / len(steps) if steps else None,
        steps_per_s=len(steps) / spent if spent > 0 else None,
        first_step_s=steps[0] if steps and times.first_is_known else None,
        s_per_later_step=sum(later) / len(later) if later else None,
        reserved_peak=peaks.reserved_peak if peaks else None,
        allocated_peak=peaks.allocated_peak if peaks else None,
        stages=times.stages,
    )
    return _Found(window, record, gaps)


def _largest(values) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _unix(window: Window) -> int:
    return window.trace.clock.to_realtime(window.begin)


def _asked(window: Window) -> Mapping:
    """The arguments of the request's scope, as they are: nothing of them goes on unchecked."""
    return window.trace.scope_args.get(int(window.trace.scopes["id"][window.row]), {})


def _incomplete(run: Run, found: list[_Found]) -> list[str]:
    """Why the figures are not all of it; ranks by number."""
    there = {one.record.rank for one in found}
    lacking = sorted(set(range(run.world_size or 0)) - there) if (run.world_size or 0) <= 1 << 20 else []
    why = [f"rank {rank} has no record of this request" for rank in lacking[:16]]
    why += [f"{len(lacking) - 16} more ranks have no record of this request"] if len(lacking) > 16 else []
    for one in found:
        window, who = one.window, named(one.record.rank)
        if not window.ended:
            why.append(f"{who} never ended it")
        if window.failed:
            why.append(f"{who} left it by an exception")
        if window.trace.health.dropped:
            why.append(f"{who} dropped {window.trace.health.dropped} records")
        if window.trace.health.damage:
            why.append(f"the file of {who} is damaged")
        why += _not_recorded(who, one.gaps)
    return why


def _not_recorded(who: str, gaps: Gaps) -> list[str]:
    why = []
    if gaps.muted:
        why.append(f"{who}: recording was paused in {gaps.muted} of {gaps.checked} steps, to measure its cost")
    if gaps.paused_ns:
        why.append(f"{who}: recording was paused for {gaps.paused_ns / 1e9:.3f} s inside it")
    if gaps.before_ns:
        why.append(f"{who}: recording was paused for {gaps.before_ns / 1e9:.3f} s before it")
    return why


def _settings(given: Mapping) -> dict[str, int | float | bool | str]:
    found = _numbers(given, SETTINGS)
    solver = given.get("sample_solver")
    if solver is not None:
        found["solver"] = solver if solver in SOLVERS else OTHER
    return found


def _parallel(run: Run, window: Window) -> dict[str, int | bool]:
    found: dict[str, int | bool] = {"world_size": run.world_size} if run.world_size else {}
    trace = window.trace
    calls = trace.collectives
    exchanges = np.array([text == "qkv" for text in trace.strings] or [False])[calls["role"]]
    sizes = {trace.groups[group].size for group in np.unique(calls["group"][exchanges]).tolist()} - {0}
    if len(sizes) == 1:
        found["ulysses_size"] = sizes.pop()
    given = trace.scope_args.get(int(trace.scopes["id"][window.load]), {}) if window.load >= 0 else {}
    return found | _numbers(given, dict(zip(PARALLEL, PARALLEL, strict=True)))


def _numbers(given: Mapping, names: Mapping[str, str]) -> dict[str, int | float | bool]:
    """Finite numbers of 64 bits and truth values, by their name here; nothing else."""
    return {here: given[name] for name, here in names.items() if _is_number(given.get(name))}


def _is_number(value) -> bool:
    if isinstance(value, bool):
        return True
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def _software(trace: Trace) -> dict[str, str]:
    """What the recorder itself wrote down; anything with a slash in it is left out."""
    places = {
        "wanhook": ("wanhook", "version"),
        "level": ("wanhook", "level"),
        "torch": ("versions", "torch"),
        "cuda": ("versions", "cuda"),
        "nccl": ("versions", "nccl"),
        "driver": ("versions", "driver"),
        "device": ("device", "name"),
        "allocator": ("allocator", "backend"),
        "allocator_settings": ("allocator", "settings"),
    }
    found = {name: section(trace.meta, part).get(key) for name, (part, key) in places.items()}
    return {name: text for name, text in found.items() if isinstance(text, str) and text and "/" not in text}
