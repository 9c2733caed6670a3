"""The collectives of one rank's trace beside the NCCL kernels of the same request, one by one. Needs numpy only.

A call's kernel is of the call's family (all_to_all: SendRecv, all_gather: AllGather). The calls of a family are met by
its kernels in order, because NCCL runs the calls of a communicator in the order of the host's calls, whatever their
streams. Where numbers differ, or a kernel lies outside of its call's stream interval, each call gets the kernel that
ends nearest to the end of its interval: the end event stands right behind the kernel.

Kineto's clock and wanhook's Unix times differ by some us, and stray from each other. Every kernel lies inside its
interval, which bounds the difference: the end of a kernel, which the end event follows at once, gives it in each
stretch of the request, and how far these bounds are from those of the begins, at best, is shared out evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.kineto_clock import Shift
from benchmarks.kineto_match import Kernels, by_ends
from wanhook.analysis import intervals
from wanhook.analysis.bandwidth import operation
from wanhook.analysis.exposure import exposed_intervals
from wanhook.analysis.span_classes import classify, correction, event_costs, pair_cost
from wanhook.analysis.turns import turns
from wanhook.tracefile.model import Trace

FAMILIES = {
    "all_to_all": ("SendRecv", "AlltoAll", "AllToAll"),
    "all_gather": ("AllGather",),
    "reduce_scatter": ("ReduceScatter",),
    "all_reduce": ("AllReduce",),
    "broadcast": ("Broadcast",),
    "barrier": ("AllReduce", "Barrier"),
}
STRETCH = 24  # calls of which one value of the clocks' difference is made
MOST_LAG = 8_000  # ns from a kernel to the end event behind it, at best
LOOSE = 2_000_000  # ns that a kernel may lie outside of its interval before the clocks are compared

# Times in ns since the Unix epoch on wanhook's clock; start and stop, of the kernel, on Kineto's, which is `shift`
# ahead. The kernel can have begun from `earliest` on, which lies some us before a `turn` that was waited for. `after`
# is the row of the NCCL kernel that ended last before this one began, -1 without one.
ROWS = np.dtype([
    ("name", "i4"), ("rank", "i4"), ("call", "i4"), ("sequence", "i8"), ("span_class", "u1"), ("begin", "i8"),
    ("end", "i8"), ("returned", "i8"), ("begin_slack", "i8"), ("end_slack", "i8"), ("correction", "i8"), ("pair", "i8"),
    ("turn", "i8"), ("earliest", "i8"), ("exposed", "i8"),
    ("kernel", "i4"), ("start", "i8"), ("stop", "i8"), ("shift", "i8"),
    ("ordered", "i8"), ("host", "i8"), ("beside", "i8"), ("late_end", "i8"), ("after", "i4"),
])  # fmt: skip


@dataclass
class Joined:
    """`rows` of the calls that have a kernel. `shift`: Kineto's clock - ours."""

    trace: Trace
    kernels: Kernels
    rows: np.ndarray
    shift: Shift
    problems: list[str]

    def calls_of(self, name: str) -> int:
        """Calls of that name in the trace, with or without a time."""
        calls = self.trace.collectives
        kinds, counts = np.unique((calls["op"].astype(np.int64) << 16) | calls["role"], return_counts=True)
        named = [_name(self.trace, kind >> 16, kind & 0xFFFF) == name for kind in kinds.tolist()]
        return int(counts[named].sum())


def _name(trace: Trace, op: int, role: int) -> str:
    return f"{operation(trace.strings[op]).name} {trace.strings[role]}".strip()


def join(trace: Trace, kernels: Kernels, known: dict[str, int]) -> Joined:
    """`known`: name of a call, such as "all_gather fsdp", -> its number; it grows."""
    classify(trace)
    table, problems = _calls(trace, known), []
    for op in dict.fromkeys(name.split()[0] for name in known):
        own = np.flatnonzero(np.isin(table["name"], [at for name, at in known.items() if name.split()[0] == op]))
        table["kernel"][own], wrong = _meet(table[own], kernels, _family(kernels, op))
        problems += [f"rank {trace.rank}: {op}: {wrong}"] if wrong else []
    met = table[table["kernel"] >= 0]
    met["start"], met["stop"] = kernels.start[met["kernel"]], kernels.end[met["kernel"]]
    sure = met[np.isin(met["name"], [at for name, at in known.items() if name.startswith("all_to_all")])]
    shift = clock_shift(sure if len(sure) else met)
    met["shift"] = np.rint(shift(met["end"])) if len(met) else 0
    _explain(met, kernels)
    return Joined(trace, kernels, met, shift, problems)


def clock_shift(rows: np.ndarray) -> Shift:
    """From calls and their kernels; they last for us, so one value serves a stretch of them."""
    rows = rows[np.argsort(rows["end"], kind="stable")]
    parts = np.array_split(rows, max(1, len(rows) // STRETCH)) if len(rows) else []
    ends = np.array([(part["stop"] - part["end"]).max() for part in parts], np.int64)
    begins = np.array([(part["start"] - part["begin"]).min() for part in parts], np.int64)
    lag = np.clip(np.median(begins - ends) / 2, 0, MOST_LAG) if len(parts) else 0
    return Shift(np.array([part["end"][len(part) // 2] for part in parts], np.int64), ends + lag)


def _calls(trace: Trace, known: dict[str, int]) -> np.ndarray:
    """ROWS[n] of the calls with a stream interval, in the order of the calls, without their kernels."""
    calls, less = trace.collectives, correction(trace)
    exposed_begin, exposed_end = exposed_intervals(trace)
    timed = np.flatnonzero((calls["gpu_begin"] >= 0) & (calls["gpu_end"] >= calls["gpu_begin"]))
    out = np.zeros(len(timed), ROWS)
    out["rank"], out["call"], out["kernel"], out["after"] = trace.rank, timed, -1, -1
    for name, source in (("begin", "gpu_begin"), ("end", "gpu_end"), ("returned", "returned")):
        out[name] = trace.clock.to_realtime(calls[source][timed])
    for name in ("span_class", "begin_slack", "end_slack", "sequence"):
        out[name] = calls[name][timed]
    out["correction"], out["exposed"] = less[timed], (exposed_end - exposed_begin)[timed]
    for device in np.unique(calls["device"][timed]).tolist():
        own = calls["device"][timed] == device
        out["pair"][own] = event_costs(calls[timed][own], pair_cost(trace.meta, device))
    for at, call in enumerate(calls[timed]):
        out["name"][at] = known.setdefault(_name(trace, call["op"], call["role"]), len(known))
    taken = turns(trace)
    behind = taken.behind[timed]
    early = np.where(behind >= 0, calls["end_slack"][behind].astype(np.int64), 0)
    out["turn"] = trace.clock.to_realtime(taken.turn[timed])
    out["earliest"] = np.maximum(out["begin"], out["turn"] - early)
    return out


def _family(kernels: Kernels, op: str) -> np.ndarray:
    """Rows of an op's kernels, by start."""
    nccl = kernels.named("nccl")
    parts = FAMILIES.get(op, ())
    own = np.unique(np.concatenate([np.empty(0, np.int64), *(kernels.named(part) for part in parts)]))
    return np.intersect1d(nccl, own)


def _meet(calls: np.ndarray, kernels: Kernels, family: np.ndarray) -> tuple[np.ndarray, str]:
    """The kernel of each call (rows of `kernels`, int64[n], -1 without one), and what is wrong or ""."""
    if len(calls) == len(family):
        start, stop = kernels.start[family], kernels.end[family]
        if ((start >= calls["begin"] - LOOSE) & (stop <= calls["end"] + LOOSE)).all():
            return family, ""
    met = by_ends(calls["end"], kernels.end[family])
    lost = int((met < 0).sum())
    spare = len(family) - len(calls) + lost
    wrong = f"{len(calls)} calls, {len(family)} kernels; {lost} calls without a kernel" if lost or spare else ""
    return np.where(met >= 0, family[met] if len(family) else -1, -1), wrong


def _explain(rows: np.ndarray, kernels: Kernels) -> None:
    """Fill `after` and the parts of a call's time in which its kernel did not run, as Kineto shows them.

    From the begin of the interval to the kernel's start, in this order: `ordered`, until the NCCL kernel on another
    stream ended that ended last before it; from there or from the turn on `host`, until the host's call had returned;
    `beside`, while other streams had kernels. From the kernel's end on `late_end`, while other streams had NCCL's,
    which began after it. The rest is in none.
    """
    nccl = kernels.named("nccl")
    nccl = nccl[np.argsort(kernels.end[nccl], kind="stable")]
    ends = kernels.end[nccl]
    begin = rows["begin"] + rows["shift"]
    lead = np.maximum(rows["start"] - begin, 0)
    last = np.searchsorted(ends, rows["start"], "right") - 1
    rows["after"] = np.where(last >= 0, nccl[last] if len(nccl) else -1, -1)
    ended = np.where(last >= 0, ends[last] if len(nccl) else 0, 0)
    elsewhere = kernels.stream[np.maximum(rows["after"], 0)] != kernels.stream[rows["kernel"]] if len(rows) else False
    rows["ordered"] = np.where(elsewhere, np.clip(ended - begin, 0, lead), 0)
    gone = np.minimum(np.maximum(rows["ordered"], rows["turn"] - rows["begin"]), lead)
    rows["host"] = np.clip(rows["returned"] - rows["begin"] - gone, 0, lead - gone)
    low = begin + gone + rows["host"]
    for stream in np.unique(kernels.stream[rows["kernel"]]).tolist():
        other = kernels.stream != stream
        busy = intervals.of(kernels.start[other], kernels.end[other])
        own = kernels.stream[rows["kernel"]] == stream
        rows["beside"][own] = intervals.overlap(low[own], rows["start"][own], busy)
        other = nccl[other[nccl]]
        busy = intervals.of(kernels.start[other], kernels.end[other])
        rows["late_end"][own] = intervals.overlap(rows["stop"][own], (rows["end"] + rows["shift"])[own], busy)
