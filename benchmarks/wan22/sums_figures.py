"""Sums of a request, ours beside Kineto's, and whether they agree. Reads a folder that `kineto_sums` wrote.

*Collectives*, by op and role, over all ranks. Kineto's: the lengths of the calls' NCCL kernels.
- stream: the stream intervals, as every report has them.
- corrected: the same, less the cost of the event pair for busy-alone calls (docs/metrics.md, Their kernels).
- in order: the same intervals, begun no earlier than the end of the call before in the same group, less a pair for
  every call. Not a figure of the reports: it shows what a late begin is due to.
- bounds: what the kernels can come to by the bounds of each interval; Kineto's sum has to lie between.

*Exposed part of FSDP's all_gather*, on each rank. Ours: `wanhook.analysis.exposure`. Kineto's: on the compute stream,
that on which the all_to_all kernels run, a gap is a time between two activities of that stream. The gap of a wait is
the first that ends later than 5 us before the release of the wait and no later than 20 us after it, on Kineto's clock;
a gap counts once. Compared are
- the sum of these gaps, whole;
- their parts in which a kernel of FSDP's all_gather ran: a gap is also a late host, or FSDP's cast of its shard;
- the sum of the gaps with that of the waits they belong to, as intervals of the same thing.
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

GATHER = "all_gather fsdp"
JUDGED = ("all_to_all qkv", "all_to_all out", GATHER)
WITHIN, EXPOSED_WITHIN = 0.01, 0.05
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
    verdicts = _verdicts(found, exposed) if ranks else []
    return {"collectives": found, "exposed": exposed, "clocks": clocks, "verdicts": verdicts, "problems": problems}


def _share(ours: int, kinetos: int) -> float | None:
    return (ours - kinetos) / kinetos if kinetos else None


def _sums(rows: np.ndarray) -> dict:
    length, kernel = rows["end"] - rows["begin"], rows["stop"] - rows["start"]
    begin = np.maximum(rows["begin"], rows["earlier"])
    in_order = np.maximum(rows["end"] - begin - rows["pair"], 0)
    ours = {"stream": length, "corrected": length - rows["correction"], "in_order": in_order}
    sums = {name: int(values.sum()) for name, values in ours.items()}
    least = np.maximum(length - rows["begin_slack"] - rows["end_slack"], 0)
    total = int(kernel.sum())
    lead = {name: int(rows[name].sum()) for name in ("ordered", "host", "beside")}
    more = sums["stream"] - total
    return {
        "n": len(rows),
        "kineto_ns": total,
        **{f"{name}_ns": value for name, value in sums.items()},
        **{f"{name}_share": _share(value, total) for name, value in sums.items()},
        "least_ns": int(least.sum()),
        "most_ns": int(length.sum()),
        "inside": int(least.sum()) <= total <= int(length.sum()),
        "calls_inside": float(((least <= kernel) & (kernel <= length)).mean()) if len(rows) else None,
        "kernel_p50_ns": float(np.median(kernel)) if len(rows) else None,
        "excess_p50_ns": float(np.median(length - kernel)) if len(rows) else None,
        "excess_p95_ns": float(np.percentile(length - kernel, 95)) if len(rows) else None,
        "excess": {**lead, "events_and_rest": more - sum(lead.values())},
    }


def _collective(name: str, number: int, rows: np.ndarray, ranks: Sequence[Joined]) -> dict:
    classes = {kind.name.lower(): rows[rows["span_class"] == kind] for kind in SpanClass}
    by_rank = {int(rank): rows[rows["rank"] == rank] for rank in np.unique(rows["rank"])}
    worst = rows[np.argsort(np.abs(rows["end"] - rows["begin"] - rows["correction"] - rows["stop"] + rows["start"]))]
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
    beside = _names_between(kernels, int(row["begin"]) + shift, int(row["end"]) + shift, int(row["kernel"]))
    return {
        "sequence": int(row["sequence"]), "rank": int(row["rank"]), "role": trace.strings[call["role"]],
        "class": SpanClass(int(row["span_class"])).name.lower(), "stream": int(call["stream"]),
        "path": trace.paths[call["path"]] if call["path"] >= 0 else "",
        "begin_ns": int(row["begin"] - trace.header["start_realtime"]), "stream_ns": int(row["end"] - row["begin"]),
        "kernel_ns": int(row["stop"] - row["start"]), "lead_ns": int(row["start"] - row["begin"] - shift),
        "lag_ns": int(row["end"] + shift - row["stop"]), "ordered_ns": int(row["ordered"]), "host_ns": int(row["host"]),
        "beside_ns": int(row["beside"]), "beside": beside,
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
    release = trace.clock.to_realtime(found["gpu_end"])
    release = release + np.rint(part.shift(release)).astype(np.int64) if len(rows) else release
    which = gaps_of(gaps, release)
    running = intervals.of(gathers["start"], gathers["stop"])
    covered = intervals.overlap(gaps[:, 0], gaps[:, 1], running)
    call = np.zeros(len(trace.collectives), bool)
    call[gathers["call"]] = True
    begin, end = exposed_intervals(trace)
    ours = intervals.overlap(found["gpu_begin"], found["gpu_end"], intervals.of(begin[call], end[call]))
    met, used = which >= 0, np.unique(which[which >= 0])
    length = found["gpu_end"] - found["gpu_begin"]
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
        "exposed_ns": int(gathers["exposed"].sum()), "without_gap": int((~met).sum()),
        "without_gap_ns": int(length[~met].sum()), "with_gap_ns": int(length[met].sum()), "gaps": len(used),
        "gaps_ns": int((gaps[used, 1] - gaps[used, 0]).sum()), "gaps_in_gather_ns": int(covered[used].sum()),
        "worst": each[:WORST],
    }  # fmt: skip


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


def _verdicts(found: list[dict], exposed: list[dict]) -> list[dict]:
    by_name = {each["name"]: each for each in found}
    verdicts = []
    for name in JUDGED:
        each = by_name.get(name)
        if each is None:
            verdicts.append({"what": f"{name}: calls with kernels", "value": None, "limit": None, "passed": False})
            continue
        for kind in ("stream", "corrected"):
            value = each[f"{kind}_share"]
            verdicts.append({"what": f"{name}: {kind} time against Kineto's kernels", "value": value, "limit": WITHIN,
                             "passed": value is not None and abs(value) <= WITHIN})  # fmt: skip
        verdicts.append({"what": f"{name}: the bounds hold Kineto's sum", "value": each["corrected_share"],
                         "limit": None, "passed": each["inside"]})  # fmt: skip
        verdicts.append({"what": f"{name}: every call has its kernel", "value": None, "limit": None,
                         "passed": each["without_kernel"] == 0})  # fmt: skip
    sums = {key: sum(each[key] for each in exposed) for key in ("exposed_ns", "gaps_ns", "gaps_in_gather_ns",
                                                                "with_gap_ns")}  # fmt: skip
    for what, ours, kinetos in (
        ("exposed all_gather against the gaps of its waits", "exposed_ns", "gaps_ns"),
        ("exposed all_gather against the gaps while its kernels ran", "exposed_ns", "gaps_in_gather_ns"),
        ("waits against their gaps", "with_gap_ns", "gaps_ns"),
    ):
        value = _share(sums[ours], sums[kinetos])
        verdicts.append({"what": what, "value": value, "limit": EXPOSED_WITHIN,
                         "passed": value is not None and abs(value) <= EXPOSED_WITHIN})  # fmt: skip
    return verdicts
