"""The collective table: calls by op, role and group, over the ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.bandwidth import Operation, bus_factor, operation, payload
from wanhook.analysis.durations import Durations, summarise
from wanhook.analysis.groups import GroupClass, GroupClasses
from wanhook.analysis.ranks import RankTotal, calls_by_rank, rank_of, totals_by_rank
from wanhook.analysis.span_classes import KernelBounds, bounds_of, classify, correction
from wanhook.analysis.turns import turns, waited
from wanhook.analysis.warm_up import first_occurrences
from wanhook.tracefile.format import CollectiveFlags

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

CAPTURED_WHY = "issued into a CUDA graph; replays are not counted"
COALESCED_WHY = "launched with others as a coalesced group, which has the time"
GROUP_WHY = "a coalesced group whose work does not show when NCCL began and ended it"
ASYNC_WHY = "asynchronous, and its work does not show when NCCL began and ended it"
UNRESOLVED_WHY = "the recording ended before its time was known"
NO_COMPLETION_WHY = "the backend does not tell when it completes"


@dataclass(frozen=True)
class CollectiveRow:
    """Calls of one op, role and group class, `op` being the name in use (all_to_all), `c10d_ops` those beneath it.

    `time` pools the times from a call's turn to its end on GPU ranks and host begin to completion on others
    (`clock`: "gpu", "host", "mixed", None when no call was timed), `stream` whole stream intervals; None where no
    call has one. `queued` calls waited for their turn behind another one of their group, `queued_ns` in all;
    `queued_behind` splits that by op and role of the other one. `kernel_bounds` says where between turn and end the
    kernels lie; None where no call has a stream interval. `kernel` pools the kernel intervals of calls with kernels
    of their own, None where there is none (`kernel_calls_by_rank`; bandwidth by these intervals, first calls left
    out: `kernel_algbw_bytes_per_s`, `kernel_busbw_bytes_per_s`). `kernel_shared` counts the calls that share theirs
    with a coalesced group and are not in it. `size_bytes` is the payload of a call as nccl-tests counts it, mean
    over all calls; `algbw_bytes_per_s` and `busbw_bytes_per_s` are over the timed calls other than first ones; None
    without payload or time. `calls_by_rank` counts all calls, `ranks` sums the timed ones.

    `coalesced` counts calls that are in a coalesced group or stand for one, `groups` those that stand for one, and
    `members` what these launched together. A group's time is that of its own row, never that of its members.
    """

    op: str
    c10d_ops: list[str]
    role: str
    group: GroupClass
    clock: str | None
    calls: int
    calls_by_rank: dict[int, int]
    bytes_in: int
    bytes_out: int
    size_bytes: float | None
    time: Durations
    stream: Durations | None
    queued: int
    queued_ns: int
    queued_behind: dict[str, int]
    kernel: Durations | None
    kernel_calls_by_rank: dict[int, int]
    kernel_algbw_bytes_per_s: float | None
    kernel_busbw_bytes_per_s: float | None
    kernel_shared: int
    ranks: list[RankTotal]
    algbw_bytes_per_s: float | None
    busbw_bytes_per_s: float | None
    asynchronous: int
    p2p: int
    captured: int
    coalesced: int
    groups: int
    members: int
    untimed: int
    untimed_why: dict[str, int]
    kernel_bounds: KernelBounds | None


_COLUMNS = np.dtype(
    [("key", "i8"), ("rank", "i8"), ("length", "i8"), ("bytes_in", "i8"), ("bytes_out", "i8"), ("op", "i8"),
     ("kernel", "i8"), ("flags", "u1"), ("gpu", "?"), ("first", "?"), ("shared", "?"), ("span_class", "u1"),
     ("begin_slack", "i8"), ("end_slack", "i8"), ("pair", "i8"), ("tensors", "i8"), ("device", "i1"),
     ("queued", "i8"), ("behind", "i8")]
)  # fmt: skip
_Key = tuple[str, str, GroupClass]


def timed_intervals(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(begin, end, gpu) of each collective, shape (n,), ns; -1 where it has no time.

    From its turn to the end of the stream interval where there is one (gpu is true), else host begin to completion, as
    host backends tell it.
    """
    calls = trace.collectives
    gpu = (calls["gpu_begin"] >= 0) & (calls["gpu_end"] >= calls["gpu_begin"])
    host = ~gpu & (calls["completed"] >= calls["begin"]) & (calls["begin"] >= 0)
    begin = np.where(gpu, turns(trace).turn, np.where(host, calls["begin"], -1))
    end = np.where(gpu, calls["gpu_end"], np.where(host, calls["completed"], -1))
    return begin, end, gpu


def collective_table(traces: Sequence[Trace]) -> list[CollectiveRow]:
    """Rows by group in the order in which groups were first seen, then by total time, largest first."""
    classes = GroupClasses(traces)
    keys: dict[_Key, int] = {}
    ops: dict[str, int] = {}
    parts = [_columns(trace, classes, keys, ops) for trace in traces]
    for part, first in zip(parts, first_occurrences(traces, [part["key"] for part in parts]), strict=True):
        part["first"] = first
    names = [f"{op} {role}".strip() for op, role, _ in keys]
    table = np.concatenate([np.empty(0, _COLUMNS), *parts])
    table = table[np.argsort(table["key"], kind="stable")]
    bounds = np.searchsorted(table["key"], np.arange(len(keys) + 1))
    rows = [_row(key, list(ops), names, table[bounds[at] : bounds[at + 1]]) for key, at in keys.items()]
    order = {group: place for place, group in enumerate(classes.all())}
    return sorted(rows, key=lambda row: (order.get(row.group, len(order)), -row.time.total_ns, row.op, row.role))


def _columns(trace: Trace, classes: GroupClasses, keys: dict[_Key, int], ops: dict[str, int]) -> np.ndarray:
    """One row a call. Op, role and group are 16 bits wide in the file."""
    classify(trace)
    calls = trace.collectives
    out = np.zeros(len(calls), _COLUMNS)
    packed = (calls["op"].astype(np.int64) << 32) | (calls["role"].astype(np.int64) << 16) | calls["group"]
    kinds, first, place = np.unique(packed, return_index=True, return_inverse=True)
    key_of, op_of = np.zeros(len(kinds), np.int64), np.zeros(len(kinds), np.int64)
    for at in np.argsort(first):
        call = calls[first[at]]
        name = trace.strings[call["op"]]
        key = operation(name).name, trace.strings[call["role"]], classes.of(trace, int(call["group"]))
        key_of[at], op_of[at] = keys.setdefault(key, len(keys)), ops.setdefault(name, len(ops))
    begin, end, gpu = timed_intervals(trace)
    out["key"], out["op"], out["rank"] = key_of[place], op_of[place], rank_of(trace)
    out["length"], out["gpu"] = np.where(begin >= 0, end - begin, -1), gpu
    out["shared"] = calls["kernel_calls"] > 1
    out["kernel"] = np.where(calls["kernel_calls"] == 1, calls["kernel_end"] - calls["kernel_begin"], -1)
    out["pair"] = correction(trace)
    taken = turns(trace)
    out["queued"] = waited(trace, taken)
    out["behind"] = np.where(taken.behind >= 0, out["key"][taken.behind], -1)
    for name in ("bytes_in", "bytes_out", "flags", "tensors", "device", "span_class", "begin_slack", "end_slack"):
        out[name] = calls[name]
    out["begin_slack"] = np.maximum(out["begin_slack"] - out["queued"], 0)
    return out


def _row(key: _Key, ops: list[str], names: list[str], table: np.ndarray) -> CollectiveRow:
    name, role, group = key
    used = [ops[at] for at in np.unique(table["op"])]
    op = operation(used[0])
    sizes = payload(op, table["bytes_in"], table["bytes_out"], group.size)
    timed, seen = table["length"] >= 0, table["kernel"] >= 0
    known = sizes if group.size else None
    algbw = _bytes_a_second(known, table["length"], timed & ~table["first"])
    kernel_algbw = _bytes_a_second(known, table["kernel"], seen & ~table["first"])
    clocks = {"gpu" if on else "host" for on in np.unique(table["gpu"][timed])}
    why = _untimed_why(table[~timed])
    flags, gpu = table["flags"], table[timed & table["gpu"]]
    groups = (flags & CollectiveFlags.GROUP) != 0
    return CollectiveRow(
        op=name,
        c10d_ops=sorted(used),
        role=role,
        group=group,
        clock=None if not clocks else clocks.pop() if len(clocks) == 1 else "mixed",
        calls=len(table),
        calls_by_rank=calls_by_rank(table["rank"]),
        bytes_in=int(table["bytes_in"].sum()),
        bytes_out=int(table["bytes_out"].sum()),
        size_bytes=float(sizes.mean()) if sizes is not None and group.size else None,
        time=summarise(table["length"][timed], table["first"][timed]),
        stream=summarise(gpu["length"] + gpu["queued"], gpu["first"]) if len(gpu) else None,
        queued=int((gpu["behind"] >= 0).sum()),
        queued_ns=int(gpu["queued"].sum()),
        queued_behind=_queued_behind(gpu, names),
        kernel=summarise(table["kernel"][seen], table["first"][seen]) if seen.any() else None,
        kernel_calls_by_rank=calls_by_rank(table["rank"][seen]),
        kernel_algbw_bytes_per_s=kernel_algbw,
        kernel_busbw_bytes_per_s=_busbw(kernel_algbw, op, group),
        kernel_shared=int(table["shared"].sum()),
        ranks=totals_by_rank(table["rank"][timed], table["length"][timed]),
        algbw_bytes_per_s=algbw,
        busbw_bytes_per_s=_busbw(algbw, op, group),
        asynchronous=int(((flags & CollectiveFlags.ASYNC) != 0).sum()),
        p2p=int(((flags & CollectiveFlags.P2P) != 0).sum()),
        captured=int(((flags & CollectiveFlags.CAPTURED) != 0).sum()),
        coalesced=int(((flags & CollectiveFlags.COALESCED) != 0).sum()),
        groups=int(groups.sum()),
        members=int(table["tensors"][groups].sum()),
        untimed=int((~timed).sum()),
        untimed_why=why,
        kernel_bounds=bounds_of(gpu),
    )


def _queued_behind(calls: np.ndarray, names: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key in np.unique(calls["behind"][calls["behind"] >= 0]).tolist():
        found[names[key]] = found.get(names[key], 0) + int(calls["queued"][calls["behind"] == key].sum())
    return dict(sorted(found.items(), key=lambda part: -part[1]))


def _busbw(algbw: float | None, op: Operation, group: GroupClass) -> float | None:
    return None if algbw is None else algbw * bus_factor(op, group.size)


def _bytes_a_second(sizes: np.ndarray | None, lengths: np.ndarray, counted: np.ndarray) -> float | None:
    lasted = int(lengths[counted].sum())
    return float(sizes[counted].sum()) / (lasted / 1e9) if sizes is not None and lasted > 0 else None


def _untimed_why(calls: np.ndarray) -> dict[str, int]:
    def flagged(flag: CollectiveFlags) -> np.ndarray:
        return (calls["flags"] & flag) != 0

    on_gpu = calls["device"] >= 0
    causes = {
        CAPTURED_WHY: flagged(CollectiveFlags.CAPTURED),
        COALESCED_WHY: flagged(CollectiveFlags.COALESCED) & ~flagged(CollectiveFlags.GROUP),
        UNRESOLVED_WHY: flagged(CollectiveFlags.TIMED),
        GROUP_WHY: flagged(CollectiveFlags.GROUP) & on_gpu,
        ASYNC_WHY: flagged(CollectiveFlags.ASYNC) & on_gpu,
        NO_COMPLETION_WHY: np.ones(len(calls), bool),
    }
    found = Counter(np.select(list(causes.values()), np.arange(len(causes))).tolist())
    return {list(causes)[cause]: count for cause, count in sorted(found.items())}
