"""One request on one rank: the scopes and collectives that belong to it, and their times under Wan's own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.ranks import on_gpu
from wanhook.tracefile.format import ScopeEndFlags, ScopeLevel, ScopeType
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
class RequestTimes:
    """`load_s` of host time went by in load scopes between the request before and this one. `steps` are seconds of each
    denoising step less the expert switch in it, by `step_clock`: "gpu" where all have stream intervals, else "host"."""

    load_s: float
    step_clock: str
    steps: list[float]
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
        self.windows = self._windows()

    def times(self, window: Window) -> RequestTimes:
        """Of one of the windows."""
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
        clock, steps = self._steps(parts["denoise_step"], parts["expert_switch"])
        load_s = self._total(of((LOAD,), before)[LOAD]).host_s or 0.0
        return RequestTimes(load_s, clock, steps, self._told(stages))

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
