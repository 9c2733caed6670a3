"""wanhook's collectives beside Kineto's NCCL kernels of the same run: joined one to one, and judged.

Reads a folder that `kineto_matrix` wrote: the trace files, and one `kernels-rankN.npz` a rank. Needs numpy only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wanhook.analysis.span_classes import classify, correction, pair_cost
from wanhook.tracefile.format import SpanClass
from wanhook.tracefile.model import Trace, load

from .kineto_clock import Shift, by_calibrations, by_kernels

MOST = 2_000.0  # ns that busy-alone durations may differ from Kineto's, in the median, after correction
LEAST_INSIDE = 0.95
NEAR = 20_000_000  # ns between a span and its kernel; beyond it the join is wrong
END_BEFORE, END_AFTER = 200_000, 50_000  # ns before and after the end of an interval in which its kernel can end
FAR_AHEAD = -1_000_000  # ns of a gap to the kernel before that count as none


@dataclass(frozen=True)
class Case:
    """`size` in bytes is that of the larger buffer; FSDP's cases have the version in the place of the mode."""

    op: str
    mode: str
    stream: str
    situation: str
    size: int

    @property
    def role(self) -> str:
        return f"{self.op}|{self.mode}|{self.stream}|{self.situation}|{self.size}"

    @classmethod
    def of(cls, role: str) -> Case | None:
        parts = role.split("|")
        return cls(*parts[:4], int(parts[4])) if len(parts) == 5 and parts[4].isdigit() else None


@dataclass(frozen=True)
class Kernels:
    """GPU activities as Kineto tells them, by start: stream, start and end (int64[n], ns since the Unix epoch)."""

    names: list[str]
    name: np.ndarray
    session: np.ndarray
    stream: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Kernels:
        with np.load(path) as stored:
            columns = {key: stored[key] for key in ("name", "session", "stream", "start", "end")}
            names = stored["names"].tolist()
        order = np.argsort(columns["start"], kind="stable")
        return cls(names, **{key: values[order] for key, values in columns.items()})

    def named(self, part: str) -> np.ndarray:
        """Rows whose name contains `part`."""
        return np.flatnonzero(np.isin(self.name, [at for at, name in enumerate(self.names) if part in name]))


def by_ends(ends: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """For each interval's end (int64[n], ns) the kernel whose stop (int64[m]) is nearest to it, each kernel once: the
    end event stands right behind the kernel. -1 (int64[n]) where none is near."""
    met = np.full(len(ends), -1, np.int64)
    order = np.argsort(stops, kind="stable")
    ordered, free = stops[order], np.ones(len(stops), bool)
    for at in np.argsort(ends, kind="stable").tolist():
        low, high = np.searchsorted(ordered, [ends[at] - END_BEFORE, ends[at] + END_AFTER])
        near = np.arange(low, high)[free[low:high]]
        if len(near):
            best = near[np.abs(ordered[near] - ends[at]).argmin()]
            met[at], free[best] = order[best], False
    return met


ROWS = np.dtype([
    ("case", "i4"), ("rank", "i4"), ("session", "i4"), ("span_class", "u1"), ("begin", "i8"), ("end", "i8"),
    ("called", "i8"), ("returned", "i8"), ("start", "i8"), ("stop", "i8"), ("begin_slack", "i8"), ("end_slack", "i8"),
    ("correction", "i8"), ("idle_before", "i8"), ("beside", "i8"),
    ("shift", "f8"),
])  # fmt: skip


def beside(kernels: Kernels, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of these kernels: ns of it during which a kernel of another stream ran, and ns since the kernel before
    it on its own stream ended (large when there was none)."""
    length = np.zeros(len(rows), np.int64)
    gap = np.full(len(rows), -FAR_AHEAD * 1000, np.int64)
    for at, row in enumerate(rows.tolist()):
        low, high = np.searchsorted(kernels.start, [kernels.start[row] - NEAR, kernels.end[row]])
        near = np.arange(low, high)
        other = near[kernels.stream[near] != kernels.stream[row]]
        shared = np.minimum(kernels.end[other], kernels.end[row]) - np.maximum(kernels.start[other], kernels.start[row])
        length[at] = np.clip(shared, 0, None).sum()
        own = near[(kernels.stream[near] == kernels.stream[row]) & (near != row)]
        if len(own):
            gap[at] = kernels.start[row] - kernels.end[own].max()
    return length, gap


def join(trace: Trace, kernels: Kernels, known: dict[str, int]) -> tuple[np.ndarray, list[str], list[dict]]:
    """(ROWS[n] of one rank, what could not be joined, the clocks' bounds at each calibration). `known`: the number of a
    case."""
    classify(trace)
    calls, less, number = trace.collectives, correction(trace), case_numbers(trace, known)
    calls, less, number = calls[number >= 0], less[number >= 0], number[number >= 0]
    begin = trace.clock.to_realtime(np.where(calls["gpu_begin"] >= 0, calls["gpu_begin"], calls["begin"]))
    nccl = kernels.named("nccl")
    rows, problems, shifts, before = [], [], [], np.iinfo(np.int64).min
    for session in np.unique(kernels.session).tolist():
        own = nccl[kernels.session[nccl] == session]
        high = kernels.end[kernels.session == session].max()
        # A session ends with an idle GPU, and the next one begins behind it.
        inside = np.flatnonzero((begin > max(before, kernels.start[own].min(initial=high) - NEAR)) & (begin < high))
        before = high
        # Kernels run in the order of the calls: NCCL orders the calls of a communicator, whatever their streams.
        inside = inside[np.argsort(calls["begin"][inside], kind="stable")]
        timed = calls["gpu_begin"][inside] >= 0
        if len(inside) != len(own) or (np.abs(begin[inside] - kernels.start[own])[timed] > NEAR).any():
            problems.append(f"session {session}: {len(inside)} calls and {len(own)} kernels are not the same calls")
            inside = inside[timed]
            met = by_ends(trace.clock.to_realtime(calls["gpu_end"][inside]), kernels.end[own])
            inside, own = inside[met >= 0], own[met[met >= 0]]
        part = _rows(trace, calls[inside], kernels, own)
        part["case"], part["session"], part["correction"] = number[inside], session, less[inside]
        part = part[calls["gpu_begin"][inside] >= 0]
        coarse = int(np.median(part["stop"] - part["end"])) if len(part) else 0
        bounds = by_calibrations(trace, kernels, session, coarse)
        if not len(bounds) and len(part):
            problems.append(f"session {session}: no calibration; the clocks are compared by the kernels themselves")
            bounds = by_kernels(part)
        part["shift"] = Shift(bounds[:, 0], bounds[:, 1:].mean(axis=1))(part["end"])
        rows.append(part)
        shifts += [{"session": session, "least_ns": int(least), "most_ns": int(most)} for _, least, most in bounds]
    return np.concatenate([np.empty(0, ROWS), *rows]), problems, shifts


def case_numbers(trace: Trace, known: dict[str, int]) -> np.ndarray:
    """The case of each collective (int64[n], -1 for none), numbered as in `known`, which grows. Its role names it, or
    a scope that it is in: FSDP's calls have a role of their own."""
    calls = trace.collectives

    def numbers(parts_of: list[list[str]]) -> np.ndarray:
        named = [next((part for part in parts if Case.of(part)), None) for parts in parts_of]
        return np.array([-1 if one is None else known.setdefault(one, len(known)) for one in [*named, None]], np.int64)

    by_role = numbers([[text] for text in trace.strings])[calls["role"]]
    by_path = numbers([path.split("/") for path in trace.paths])[calls["path"]]  # -1 is the last: no case
    return np.where(by_role >= 0, by_role, by_path)


def _widest(rows: np.ndarray) -> tuple[float, float]:
    """Between which two values the clocks' difference lies, each kernel having run inside its interval."""
    return float((rows["stop"] - rows["end"]).max()), float((rows["start"] - rows["begin"]).min())


def _rows(trace: Trace, calls: np.ndarray, kernels: Kernels, own: np.ndarray) -> np.ndarray:
    """ROWS[n] of calls and the kernels at `own`, without the case."""
    out = np.zeros(len(calls), ROWS)
    out["rank"] = trace.rank
    for name, source in (("begin", "gpu_begin"), ("end", "gpu_end"), ("called", "begin"), ("returned", "returned")):
        out[name] = trace.clock.to_realtime(calls[source])
    for name in ("span_class", "begin_slack", "end_slack"):
        out[name] = calls[name]
    out["start"], out["stop"] = kernels.start[own], kernels.end[own]
    out["beside"], out["idle_before"] = beside(kernels, own)
    return out


def figures(rows: np.ndarray) -> dict:
    """What some spans come to; differences are ours - Kineto's."""
    lasted, kernel = rows["end"] - rows["begin"], rows["stop"] - rows["start"]
    start, stop = rows["start"] - rows["begin"] - rows["shift"], rows["stop"] - rows["end"] - rows["shift"]
    # Differences first: a float cannot hold a Unix time to the ns.
    starts_inside = (start >= 0) & (start <= rows["begin_slack"])
    ends_inside = (stop >= -rows["end_slack"]) & (stop <= 0)
    names = {int(value): value.name.lower() for value in SpanClass}
    kinds, counts = np.unique(rows["span_class"], return_counts=True)
    return {
        "n": len(rows),
        "classes": {names.get(kind, "?"): count for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)},
        "kernel_ns": float(np.median(kernel)),
        "kernel_beside": float(np.median(rows["beside"] / np.maximum(kernel, 1))),
        "difference_ns": _three(lasted - kernel),
        "corrected_ns": float(np.median(lasted - rows["correction"] - kernel)),
        "start_ns": _three(-start),
        "end_ns": _three(-stop),
        "start_inside": float(starts_inside.mean()),
        "end_inside": float(ends_inside.mean()),
        "start_width_ns": float(np.median(rows["begin_slack"])),
        "end_width_ns": float(np.median(rows["end_slack"])),
        "begin_late_ns": _three(rows["begin"] - rows["returned"]),
        "end_late_ns": _three(rows["end"] - rows["returned"]),
    }


def _three(values: np.ndarray) -> list[float]:
    """p5, median, p95."""
    return [float(value) for value in np.percentile(values, [5, 50, 95])]


def analyse(folder: Path) -> dict:
    """All figures of a run: by case, by class, and the verdict."""
    known: dict[str, int] = {}
    tables, problems, clocks, pairs = [], [], [], []
    for trace in load(folder).traces:
        kernels = folder / f"kernels-rank{trace.rank}.npz"
        if not kernels.exists():
            problems.append(f"rank {trace.rank}: {kernels.name} is missing")
            continue
        rows, wrong, found = join(trace, Kernels.read(kernels), known)
        tables.append(rows)
        pairs += _pair_costs(trace)
        problems += [f"rank {trace.rank}: {what}" for what in wrong]
        clocks += [{"rank": trace.rank, **each} for each in found]
    rows = np.concatenate([np.empty(0, ROWS), *tables])
    return {"clocks": clocks, "pairs": pairs, "problems": problems, **_judge(rows, known)}


def _pair_costs(trace: Trace) -> list[dict]:
    timed = trace.meta.get("event_pair", {})
    return [
        {"rank": trace.rank, **asdict(pair_cost(trace.meta, device)), "timed": timed.get(str(device))}
        for device in trace.clock.devices
    ]


def _judge(rows: np.ndarray, known: dict[str, int]) -> dict:
    """Figures of each case and of each class, and the verdict; "unseen" cases are shown and not judged."""
    cases = {role: Case.of(role) for role in known}
    inside = {role: rows["case"] == at for role, at in known.items()}
    seen = ~np.isin(rows["case"], [at for role, at in known.items() if cases[role].situation.startswith("unseen")])
    by_class = {
        value.name.lower(): figures(rows[own])
        for value in SpanClass
        if (own := seen & (rows["span_class"] == value)).any()
    }
    return {
        "cases": [asdict(cases[role]) | figures(rows[own]) for role, own in inside.items() if own.any()],
        "classes": by_class,
        "untimed": [role for role, own in inside.items() if not own.any()],
        "verdict": verdict(by_class),
    }


def verdict(by_class: dict[str, dict]) -> list[dict]:
    """The criteria, each with what it came to; a run without busy-alone spans fails."""
    value = by_class["busy_alone"]["corrected_ns"] if "busy_alone" in by_class else float("nan")
    found = [{"what": "busy-alone: median difference of duration after correction, ns", "value": value,
              "passed": abs(value) <= MOST}]  # fmt: skip
    for name, each in by_class.items():
        for edge in ("start", "end"):
            value = each[f"{edge}_inside"]
            found.append({"what": f"{name}: share of spans whose bounds contain Kineto's {edge}", "value": value,
                          "passed": value >= LEAST_INSIDE})  # fmt: skip
    return found
