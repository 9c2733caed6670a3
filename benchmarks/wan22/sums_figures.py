"""Sums of a request, ours beside Kineto's, and whether they agree. Reads a folder that `kineto_sums` wrote.

*Collectives*, by op and role, over all ranks. Kineto's: the lengths of the calls' NCCL kernels.
- stream: the stream intervals; queued: the part of them before the calls' turns (docs/metrics.md, Turn).
- time: the rest, as every report has it.
- corrected: the same, less the cost of the event pair for busy-alone calls (docs/metrics.md, Their kernels).
- bounds: what the kernels can come to by the bounds of each interval; Kineto's sum has to lie between.
What a time is longer than its kernel is made of
- events: an event pair, as the recording measured it; none for calls that were queued;
- host: until the host's call had returned; beside: until the kernel began, while other streams had kernels (it waited
  for SMs); late end: from the kernel's end on, while another stream had a kernel of NCCL's (the end event came late);
  these three by Kineto's kernels;
- the rest.

*Exposed part of FSDP's all_gather*, on each rank. Ours: `wanhook.analysis.exposure`. Kineto's: on the compute stream,
that on which the all_to_all kernels run, a gap is a time between two activities of that stream. The gap of a wait is
the first that ends later than 5 us before the release of the wait and no later than 20 us after it, on Kineto's clock;
a gap counts once, and waits without one are left out: there the host was late with what follows. Compared are
- the sum of these gaps with what of all_gather was exposed in their waits;
- the same with their parts in which a kernel of FSDP's all_gather ran: a gap is also a late host, or FSDP's cast;
- the sum of the gaps with that of their waits, as intervals of the same thing.
A wait in which nothing was exposed still has a gap, longer than itself: two events and a dependency stand in it, which
are no activities. The medians of both, over such waits, are the constant of a gap. A wait begins no earlier than the
host prepares it (docs/metrics.md), so a gap whose stream was dry before is longer by that.

*Verdicts*. A limit is kept, or missed; a missed one is explained when what is left keeps it after the parts above, for
waits and gaps: the constant of each gap, the time for which the stream was dry before, the part of the waits in which
no all_gather was on, and what was exposed before its kernel began (host and beside, as above).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.kineto_match import Kernels
from wanhook.analysis import intervals
from wanhook.analysis.exposure import exposed_intervals, waits
from wanhook.tracefile.format import SpanClass
from wanhook.tracefile.model import load

from .sums_join import Joined, join
from .sums_verdicts import GATHER, JUDGED, verdicts

BEFORE_RELEASE, AFTER_RELEASE = 5_000, 20_000  # ns
WORST = 10


def analyse(folder: Path) -> dict:
    """All figures; times in ns, differences as shares of Kineto's sum, None without one."""
    known: dict[str, int] = {}
    ranks, problems = [], []
    for trace in load(folder).traces:
        path = folder / f"kernels-rank{trace.rank}.npz"
        kernels = Kernels.read(path) if path.exists() else None
        if kernels is None or not len(kernels.start):
            problems.append(f"rank {trace.rank}: Kineto saw nothing on a GPU, so there is nothing to compare with")
            continue
        ranks.append(join(trace, kernels, known))
        problems += ranks[-1].problems
        if trace.health.dropped:
            problems.append(f"rank {trace.rank}: {trace.health.dropped} records were dropped")
    rows = np.concatenate([part.rows for part in ranks]) if ranks else None
    found = (
        [] if rows is None else [_collective(name, at, rows[rows["name"] == at], ranks) for name, at in known.items()]
    )
    found = [each for each in found if each["n"]]
    exposed = [_exposed(part, known) for part in ranks]
    clocks = [
        {"rank": part.trace.rank, "least_ns": float(part.shift.ns.min(initial=np.inf)),
         "most_ns": float(part.shift.ns.max(initial=-np.inf)),
         "pair_ns": int(part.rows["pair"].max(initial=0)), "measured": bool(part.trace.meta.get("event_pair")),
         "calls": len(part.rows), "activities": len(part.kernels.start)}
        for part in ranks
    ]  # fmt: skip
    judged = verdicts(found, exposed) if ranks else []
    return {"collectives": found, "exposed": exposed, "clocks": clocks, "verdicts": judged, "problems": problems}


def _share(ours: int, kinetos: int) -> float | None:
    return (ours - kinetos) / kinetos if kinetos else None


def _sums(rows: np.ndarray) -> dict:
    length, kernel = rows["end"] - rows["begin"], rows["stop"] - rows["start"]
    time, queued = rows["end"] - rows["turn"], rows["turn"] - rows["begin"]
    ours = {"stream": length, "time": time, "corrected": time - rows["correction"]}
    sums = {name: int(values.sum()) for name, values in ours.items()}
    least = np.maximum(length - rows["begin_slack"] - rows["end_slack"], 0)
    most = rows["end"] - rows["earliest"]
    total = int(kernel.sum())
    parts = {"events": int(rows["pair"][queued == 0].sum())}
    parts |= {name: int(rows[name].sum()) for name in ("host", "beside", "late_end")}
    return {
        "n": len(rows),
        "kineto_ns": total,
        **{f"{name}_ns": value for name, value in sums.items()},
        **{f"{name}_share": _share(value, total) for name, value in sums.items()},
        "queued": int((queued > 0).sum()),
        "queued_ns": int(queued.sum()),
        "behind_ns": int(rows["ordered"].sum()),
        "least_ns": int(least.sum()),
        "most_ns": int(most.sum()),
        "inside": int(least.sum()) <= total <= int(most.sum()),
        "calls_inside": float(((least <= kernel) & (kernel <= most)).mean()) if len(rows) else None,
        "kernel_p50_ns": float(np.median(kernel)) if len(rows) else None,
        "excess_p50_ns": float(np.median(time - kernel)) if len(rows) else None,
        "excess_p95_ns": float(np.percentile(time - kernel, 95)) if len(rows) else None,
        "excess": {**parts, "rest": sums["time"] - total - sum(parts.values())},
    }


def _collective(name: str, number: int, rows: np.ndarray, ranks: Sequence[Joined]) -> dict:
    classes = {kind.name.lower(): rows[rows["span_class"] == kind] for kind in SpanClass}
    by_rank = {int(rank): rows[rows["rank"] == rank] for rank in np.unique(rows["rank"])}
    worst = rows[np.argsort(np.abs(rows["end"] - rows["turn"] - rows["correction"] - rows["stop"] + rows["start"]))]
    parts = {part.trace.rank: part for part in ranks}
    return {
        "name": name,
        **_sums(rows),
        "without_kernel": sum(part.calls_of(name) - int((part.rows["name"] == number).sum()) for part in ranks),
        "classes": {kind: _sums(own) for kind, own in classes.items() if len(own)},
        "ranks": {rank: _sums(own) for rank, own in by_rank.items()},
        "worst": [_span(row, parts[int(row["rank"])]) for row in worst[::-1][:WORST]],
    }


def _span(row: np.ndarray, part: Joined) -> dict:
    """One span as one can look it up: times in ns, begin since the trace's first."""
    trace, kernels, shift = part.trace, part.kernels, int(row["shift"])
    call = trace.collectives[row["call"]]
    beside = _names_between(kernels, int(row["turn"]) + shift, int(row["end"]) + shift, int(row["kernel"]))
    return {
        "sequence": int(row["sequence"]), "rank": int(row["rank"]), "role": trace.strings[call["role"]],
        "class": SpanClass(int(row["span_class"])).name.lower(), "stream": int(call["stream"]),
        "path": trace.paths[call["path"]] if call["path"] >= 0 else "",
        "begin_ns": int(row["begin"] - trace.header["start_realtime"]), "stream_ns": int(row["end"] - row["begin"]),
        "queued_ns": int(row["turn"] - row["begin"]), "kernel_ns": int(row["stop"] - row["start"]),
        "lead_ns": int(row["start"] - row["turn"] - shift),
        "lag_ns": int(row["end"] + shift - row["stop"]), "behind_ns": int(row["ordered"]), "host_ns": int(row["host"]),
        "beside_ns": int(row["beside"]), "late_end_ns": int(row["late_end"]), "beside": beside,
        "after": kernels.names[kernels.name[row["after"]]][:40] if row["after"] >= 0 else "",
        "after_ns": int(row["start"] - kernels.end[row["after"]]) if row["after"] >= 0 else -1,
    }  # fmt: skip


def _names_between(kernels: Kernels, begin: int, end: int, but: int, most: int = 3) -> list[str]:
    """What ran on other streams from begin to end, longest first, as "name 12.3 us"."""
    other = (kernels.stream != kernels.stream[but]) & (kernels.end > begin) & (kernels.start < end)
    shared = np.minimum(kernels.end[other], end) - np.maximum(kernels.start[other], begin)
    sums = np.bincount(kernels.name[other], shared, len(kernels.names))
    order = [at for at in np.argsort(sums)[::-1][:most].tolist() if sums[at] > 0]
    return [f"{kernels.names[at][:60]} {sums[at] / 1e3:.1f} us" for at in order]


def _exposed(part: Joined, known: dict[str, int]) -> dict:
    """One rank's exposed all_gather, waits and gaps."""
    trace, rows, kernels = part.trace, part.rows, part.kernels
    gathers = rows[rows["name"] == known.get(GATHER, -1)]
    exchanges = rows[np.isin(rows["name"], [known[name] for name in JUDGED[:2] if name in known])]
    streams, counts = np.unique(kernels.stream[(exchanges if len(exchanges) else rows)["kernel"]], return_counts=True)
    compute = int(streams[counts.argmax()]) if len(streams) else -1
    on = kernels.stream == compute
    busy = intervals.union(intervals.of(kernels.start[on], kernels.end[on]))
    gaps = intervals.of(busy[:-1, 1], busy[1:, 0])
    found = _waits(trace)
    began, release = (_on_kinetos(part, found[name]) for name in ("gpu_begin", "gpu_end"))
    which = gaps_of(gaps, release)
    running = intervals.of(gathers["start"], gathers["stop"])
    covered = intervals.overlap(gaps[:, 0], gaps[:, 1], running)
    call = np.zeros(len(trace.collectives), bool)
    call[gathers["call"]] = True
    begin, end = exposed_intervals(trace)
    ours = intervals.overlap(found["gpu_begin"], found["gpu_end"], intervals.of(begin[call], end[call]))
    dry = np.where(which >= 0, began - gaps[which, 0], 0) if len(gaps) else np.zeros(len(found), np.int64)
    met, used = which >= 0, np.unique(which[which >= 0])
    length, idle = found["gpu_end"] - found["gpu_begin"], met & (ours == 0)
    each = [
        {"wait": at, "begin_ns": int(found["gpu_begin"][at] - trace.header["start_monotonic"]),
         "wait_ns": int(length[at]), "exposed_ns": int(ours[at]),
         "gap_ns": int(np.diff(gaps[which[at]])[0]) if met[at] else None,
         "gather_ns": int(covered[which[at]]) if met[at] else None,
         "path": trace.paths[found["path"][at]]}
        for at in range(len(found))
    ]  # fmt: skip
    each.sort(key=lambda one: -abs(one["exposed_ns"] - (one["gap_ns"] or 0)))
    return {
        "rank": trace.rank, "compute_stream": compute, "waits": len(found), "waits_ns": int(length.sum()),
        "exposed_ns": int(gathers["exposed"].sum()), "exposed_with_gap_ns": int(ours[met].sum()),
        "idle_waits_ns": length[idle].tolist(), "idle_gaps_ns": np.diff(gaps[which[idle]]).ravel().tolist(),
        "idle_dry_ns": dry[idle].tolist(), "dry_ns": dry[met].tolist(),
        "lead_ns": int(_leads(trace, gathers, (begin, end), found[met]).sum()),
        "without_gap": int((~met).sum()),
        "without_gap_ns": int(length[~met].sum()), "with_gap_ns": int(length[met].sum()), "gaps": len(used),
        "gaps_ns": int((gaps[used, 1] - gaps[used, 0]).sum()), "gaps_in_gather_ns": int(covered[used].sum()),
        "worst": each[:WORST],
    }  # fmt: skip


def _on_kinetos(part: Joined, moments: np.ndarray) -> np.ndarray:
    moments = part.trace.clock.to_realtime(moments)
    return moments + np.rint(part.shift(moments)).astype(np.int64) if len(part.rows) else moments


def _leads(trace, gathers: np.ndarray, exposed: tuple[np.ndarray, np.ndarray], waits: np.ndarray) -> np.ndarray:
    """How much of what is exposed in the waits lies before each call's kernel: host and beside, by Kineto (ns)."""
    begin, end = (moments[gathers["call"]] for moments in exposed)
    turn = trace.collectives["gpu_begin"][gathers["call"]] + gathers["turn"] - gathers["begin"]
    last = np.minimum(turn + gathers["host"] + gathers["beside"], end)
    return intervals.overlap(np.maximum(turn, begin), last, intervals.of(waits["gpu_begin"], waits["gpu_end"]))


def _waits(trace) -> np.ndarray:
    found = waits(trace)
    found = found[np.isin(found["name"], [at for at, text in enumerate(trace.strings) if text == "fsdp wait"])]
    return found[(found["gpu_begin"] >= 0) & (found["gpu_end"] >= found["gpu_begin"])]


def gaps_of(gaps: np.ndarray, release: np.ndarray) -> np.ndarray:
    """For each release of a wait (int64[n], ns) the row of its gap (int64[n]), -1 without one. `gaps`: int64[m, 2], by
    time."""
    first = np.searchsorted(gaps[:, 1], release - BEFORE_RELEASE, "right")
    there = first < len(gaps)
    ends = gaps[np.minimum(first, len(gaps) - 1), 1] if len(gaps) else np.zeros(len(release), np.int64)
    return np.where(there & (ends <= release + AFTER_RELEASE), first, -1)
