"""One request on one rank: the scopes and collectives that belong to it, and their times under Wan's own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.gaps import beyond, closed_stretches, muted_stretches, within
from wanhook.analysis.ranks import on_gpu
from wanhook.tracefile.format import ScopeEndFlags, ScopeLevel, ScopeType, ScopeVerify
from wanhook.tracefile.names import section

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

REQUEST, LOAD = "request", "load"
_TOTALS = ("request", "denoise_step", "expert_switch")  # said with _total behind
_INSIDE = (
    *_TOTALS, "text_encode", "clip_encode", "audio_encode", "pose_encode", "prepare_source", "vae_encode", "denoise",
    "dit_forward", "block", "vace_block", "self_attn", "cross_attn", "attn_kernel", "ffn", "scheduler_step",
    "sp_gather", "offload", "vae_decode", "barrier_wait",
)  # fmt: skip
_SAVE = "save"
_LOADING = ("load_t5", "load_vae", "load_clip", "load_audio", "load_dit", "configure", "fsdp_wrap")
_KERNEL, _FORWARD, _ATTENTIONS = "attn_kernel", "dit_forward", ("self_attn", "cross_attn")
_OPS = ("self_attn", "cross_attn", "attn_kernel", "ffn")  # recorded at the level op alone
_COMM = {"qkv_all_to_all": ("alltoall", "qkv"), "out_all_to_all": ("alltoall", "out")}
_CALLS = {**_COMM, "fsdp_all_gather": ("allgather", "fsdp"), "sp_all_gather": ("allgather", "sp_gather")}
_ALWAYS = ("request_total", "denoise_step_total", "expert_switch_total", "attn_kernel", "comm_total", *_COMM)
_KNOWN = (*_INSIDE, *_LOADING, _SAVE, LOAD)
_NS = 1e9


@dataclass(frozen=True)
class StageTotal:
    """`count` occurrences; the sums, in seconds, of their stream intervals and of their host intervals (collectives: to
    the end of the work, where the backend tells). None: none of them has such a time. `untimed` of them lack the one
    that their rank should have."""

    count: int
    gpu_s: float | None
    host_s: float | None
    untimed: int


@dataclass(frozen=True)
class Window:
    """A request in its trace: row of its scope and, -1 for none, of the load that served it; host times in ns: `since`
    is the begin of the request before it (or of the recording), `begin` and `end` its own (the last of the recording if
    it never ended), `until` the next one's begin."""

    trace: Trace
    row: int
    load: int
    since: int
    begin: int
    end: int
    until: int

    @property
    def ended(self) -> bool:
        return not self.trace.scopes["open"][self.row]

    @property
    def failed(self) -> bool:
        return bool(self.trace.scopes["flags"][self.row] & ScopeEndFlags.EXCEPTION)


@dataclass(frozen=True)
class Gaps:
    """What was not recorded of a window: the inside of `muted` of `checked` steps of the perturbation check (`paths`),
    and what went on in `paused_ns` of pauses, in `before_ns` of those between the request before and this one.
    `hidden`: the gate was closed at some time inside."""

    muted: int
    checked: int
    paths: tuple[str, ...]
    paused_ns: int
    before_ns: int
    hidden: bool


@dataclass(frozen=True)
class RequestTimes:
    """`load_s` of host time went by in load scopes between the request before and this one. `steps` are seconds of each
    denoising step that was recorded, less the expert switch in it, by `step_clock`: "gpu" where all have stream
    intervals, else "host". `step_count` counts those that ended, muted ones too; `first_is_known`: the first of them is
    among `steps`. None: not known."""

    load_s: float | None
    step_clock: str
    step_count: int | None
    steps: list[float]
    first_is_known: bool
    stages: dict[str, StageTotal | None]


class TraceRequests:
    """The requests of one trace. Tables by string and by path are made once, and each request looks at its own rows
    alone: a recording can hold thousands."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        numbers = {name: number for number, name in enumerate(_KNOWN)}
        known = np.array([numbers.get(text, -1) for text in trace.strings] or [-1], np.int64)
        told_once = np.array([_is_outermost(path) and not _is_of_others(path) for path in trace.paths] or [False])
        scopes = trace.scopes
        told = (scopes["type"] == ScopeType.TRACE) & told_once[scopes["path"]]
        self._kind = np.where(told, known[scopes["name"]], -1).astype(np.int8)
        self._calls = _call_kinds(trace)
        self._closed, self._muted = closed_stretches(trace), muted_stretches(trace)
        self.windows = self._windows()

    def times(self, window: Window) -> RequestTimes:
        """Of one of the windows. What can have gone on while nothing was recorded is None."""
        scopes = self.trace.scopes
        rows = np.arange(*np.searchsorted(scopes["begin"], [window.since, window.until]))
        begin, kind = scopes["begin"][rows], self._kind[rows]
        inside = (begin >= window.begin) & (begin <= window.end) & self._below(window, rows)
        before = begin < window.begin

        def of(names: tuple[str, ...], where: np.ndarray) -> dict[str, np.ndarray]:
            return {name: rows[where & (kind == _KNOWN.index(name))] for name in names}

        parts = of(_INSIDE, inside) | of(_LOADING, before) | of((_SAVE,), inside | (begin >= window.end))
        stages = {name + "_total" * (name in _TOTALS): self._total(found) for name, found in parts.items()}
        stages |= self._collectives(window)
        gaps = self.gaps(window)
        steps = parts["denoise_step"]
        # The expert switch in a muted step is not known, so only the others have a length of their own.
        clock, lengths = self._steps(steps[scopes["verify"][steps] != ScopeVerify.MUTED], parts["expert_switch"])
        load_s = self._total(of((LOAD,), before)[LOAD]).host_s or 0.0
        told = self._told(stages) | self._unknown(stages, gaps)
        return RequestTimes(
            load_s=None if gaps.before_ns else load_s,
            step_clock=clock,
            step_count=None if gaps.paused_ns else int((~scopes["open"][steps]).sum()),
            steps=[] if gaps.paused_ns else lengths,
            first_is_known=len(steps) > 0 and bool(scopes["verify"][steps[0]] != ScopeVerify.MUTED),
            stages=told,
        )

    def gaps(self, window: Window) -> Gaps:
        """What was not recorded of one of the windows."""
        scopes = self.trace.scopes
        rows = np.arange(*np.searchsorted(scopes["begin"], [window.begin, window.end]))
        checked = rows[scopes["verify"][rows] != ScopeVerify.NONE]
        muted = scopes[checked[scopes["verify"][checked] == ScopeVerify.MUTED]]
        closed, before = (
            (within(self._closed, *ends), within(self._muted, *ends))
            for ends in ((window.begin, window.end), (window.since, window.begin))
        )
        return Gaps(
            muted=len(muted),
            checked=len(checked),
            paths=tuple(self.trace.paths[path] for path in np.unique(muted["path"])),
            paused_ns=beyond(*closed),
            before_ns=beyond(*before),
            hidden=bool(len(muted) or len(closed[0])),
        )

    def _unknown(self, stages: dict[str, StageTotal], gaps: Gaps) -> dict[str, None]:
        """The stages of which some can have gone by unseen."""
        if gaps.paused_ns:
            found = [name for name in stages if name not in ("request_total", *_LOADING)]
        elif gaps.muted:
            held = {name for path in self.trace.paths for name in _held_by(path, gaps.paths)}
            held |= {name + "_total" for name in held & set(_TOTALS)} | {"comm_total", *_CALLS}
            found = [name for name in stages if name in held or (name in _ALWAYS and not stages[name].count)]
        else:
            found = []
        found += _LOADING if gaps.before_ns else ()
        return {name: None for name in found if name in _ALWAYS or stages[name].count}

    def _windows(self) -> list[Window]:
        """By begin: stages of that name that no other one holds."""
        scopes, began = self.trace.scopes, int(self.trace.header["start_monotonic"])
        stage = scopes["level"] == ScopeLevel.STAGE
        rows = np.flatnonzero(stage & (self._kind == _KNOWN.index(REQUEST)))
        loads = np.flatnonzero(stage & (self._kind == _KNOWN.index(LOAD)))
        served = np.append(loads, -1)[np.searchsorted(loads, rows) - 1] if len(loads) else np.full(len(rows), -1)
        last = max([began, *(int(scopes[side].max()) for side in ("begin", "end") if len(scopes))])
        begins = [*scopes["begin"][rows].tolist(), np.iinfo(np.int64).max]
        return [
            Window(
                trace=self.trace,
                row=row,
                load=load,
                since=begins[number - 1] if number else min(began, begins[0]),
                begin=begins[number],
                end=last if scopes["open"][row] else int(scopes["end"][row]),
                until=begins[number + 1],
            )
            for number, (row, load) in enumerate(zip(rows.tolist(), served.tolist(), strict=True))
        ]

    def _below(self, window: Window, rows: np.ndarray) -> np.ndarray:
        """bool, the shape of `rows`: the request's own path or one that it holds."""
        path = self.trace.scopes["path"]
        own = self.trace.paths[path[window.row]]
        used, place = np.unique(path[rows], return_inverse=True)
        names = [self.trace.paths[number] for number in used]
        below = np.array([name == own or name.startswith(own + "/") for name in names] or [False])
        return below[place.reshape(-1)]

    def _total(self, rows: np.ndarray) -> StageTotal:
        found = self.trace.scopes[rows]
        return _summed(self.trace, found, found["begin"], found["end"])

    def _collectives(self, window: Window) -> dict[str, StageTotal]:
        bounds = np.searchsorted(self.trace.collectives["begin"], [window.begin, window.end])
        calls, kind = self.trace.collectives[slice(*bounds)], self._calls[slice(*bounds)]

        def total(*names: str) -> StageTotal:
            chosen = calls[np.isin(kind, [list(_CALLS).index(name) for name in names])]
            return _summed(self.trace, chosen, chosen["begin"], chosen["completed"])

        return {"comm_total": total(*_COMM), **{name: total(name) for name in _CALLS}}

    def _steps(self, steps: np.ndarray, switches: np.ndarray) -> tuple[str, list[float]]:
        scopes = self.trace.scopes
        steps, switches = (rows[scopes["end"][rows] >= scopes["begin"][rows]] for rows in (steps, switches))
        both = np.concatenate([steps, switches])
        clock = "gpu" if on_gpu(self.trace) and (scopes["gpu_end"][both] >= 0).all() else "host"
        begin, end = ("gpu_begin", "gpu_end") if clock == "gpu" else ("begin", "end")
        spent = {int(scopes["id"][row]): int(scopes[end][row] - scopes[begin][row]) for row in steps}
        for row in switches:
            parent = int(scopes["parent"][row])
            if parent in spent:
                spent[parent] -= int(scopes[end][row] - scopes[begin][row])
        return clock, [length / _NS for length in spent.values()]

    def _told(self, stages: dict[str, StageTotal]) -> dict[str, StageTotal | None]:
        """Without what did not occur; None: not recorded at this level."""
        ops = section(self.trace.meta, "wanhook").get("level") in (None, "op")
        found = {name: total if total.count or ops or name not in _OPS else None for name, total in stages.items()}
        return {name: total for name, total in found.items() if name in _ALWAYS or (total and total.count)}


def _held_by(path: str, outer: tuple[str, ...]) -> list[str]:
    """The names in a path behind one of the outer ones."""
    return [name for one in outer if path.startswith(one + "/") for name in path[len(one) + 1 :].split("/")]


def _is_outermost(path: str) -> bool:
    """A scope in another one of its name is part of that one's time."""
    outer, _, name = path.rpartition("/")
    return name not in outer.split("/")


def _is_of_others(path: str) -> bool:
    """An attn_kernel outside of the DiT's own attentions. Wan's CLIP calls the same function, and so does the motioner
    of its S2V, that one inside of the DiT's forward."""
    outer, _, name = path.rpartition("/")
    around = outer.split("/")
    return name == _KERNEL and not (_FORWARD in around and any(one in around for one in _ATTENTIONS))


def _call_kinds(trace: Trace) -> np.ndarray:
    """Which of _CALLS each collective is, -1 for none (int8, shape (collectives,))."""
    calls = trace.collectives
    found = np.full(len(calls), -1, np.int8)
    for number, (op, role) in enumerate(_CALLS.values()):
        ops = np.array([op in text for text in trace.strings] or [False])
        roles = np.array([text == role for text in trace.strings] or [False])
        found[ops[calls["op"]] & roles[calls["role"]]] = number
    return found


def _summed(trace: Trace, rows: np.ndarray, begin: np.ndarray, end: np.ndarray) -> StageTotal:
    """`rows` of scopes or collectives; `begin` and `end` are their host intervals."""
    ended = end >= begin
    gpu = rows[(rows["gpu_begin"] >= 0) & (rows["gpu_end"] >= rows["gpu_begin"])]
    host_s = float((end - begin)[ended].sum()) / _NS if ended.any() else None
    gpu_s = float((gpu["gpu_end"] - gpu["gpu_begin"]).sum()) / _NS if len(gpu) else None
    timed = len(gpu) if on_gpu(trace) else int(ended.sum())
    return StageTotal(len(rows), gpu_s, host_s, len(rows) - timed)
