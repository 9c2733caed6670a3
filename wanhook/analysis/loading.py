"""Loading, component by component: time, CPU, bytes read and brought to the GPU, on each rank.

A component is a stage scope named load, load_*, configure or fsdp_wrap, or one that was measured (wanhook.loading); its
expert counts as part of its name. load_waits.py says who waited for whom meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.ranks import rank_of
from wanhook.tracefile.format import SampleEdge, ScopeLevel, ScopeType
from wanhook.tracefile.names import MAX_DEPTH, whole

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

MARK = "load measured"  # as in wanhook/loading.py
_NAMES = ("load", "configure", "fsdp_wrap")
MAX_PARTS = 1000  # of a trace; a program that opens more calls something else loading
_SUMMED = ("thread_cpu_ns", "process_cpu_ns", "storage_bytes", "read_call_bytes", "major_faults", "minor_faults")


@dataclass(frozen=True)
class LoadRow:
    """A component on one rank, `count` times; ns and bytes, summed. None: not known.

    `weights_bytes` is the size of the checkpoint's files: this component's own, else that of those inside it.
    `storage_bytes`, `read_call_bytes`, `major_faults`, `minor_faults` are the kernel's counts for the whole process.
    `mapped_bytes` is how much more of mapped files was in memory at the end than at the begin; `read_bytes` is what was
    read at least, by calls or by mapping. `gpu_bytes` is what torch's allocated bytes grew by, on all devices.
    `rate_bytes_per_s` is `rate_of` by the time: "weights" where their size is known, else the larger of "reads" and
    "gpu". `storage_share` is the part of weights or reads that came from storage rather than from the page cache.
    `thread_cpu_ns` and `process_cpu_ns` are CPU time; `shared` is true where another thread of the process was
    loading too, so that figures of the process are not this component's alone. `measured` is false for scopes of which
    nothing but the time is known.
    """

    component: str
    path: str
    rank: int
    count: int
    time_ns: int
    measured: bool
    shared: bool
    thread_cpu_ns: int | None
    process_cpu_ns: int | None
    cpu_share: float | None
    weights_bytes: int | None
    storage_bytes: int | None
    read_call_bytes: int | None
    mapped_bytes: int | None
    read_bytes: int | None
    major_faults: int | None
    minor_faults: int | None
    rate_bytes_per_s: float | None
    rate_of: str | None
    storage_share: float | None
    resident_begin_bytes: int | None
    resident_end_bytes: int | None
    gpu_bytes: int | None


@dataclass(frozen=True)
class Part:
    """One occurrence of a component: ids of its scope and of the component around it (0: none), host begin and end in
    ns, what was measured. One without an expert has that of the component around it."""

    scope: int
    parent: int
    component: str
    path: str
    begin: int
    end: int
    figures: dict


def load_table(traces: Sequence[Trace]) -> list[LoadRow]:
    """Rows by component, in the order in which these first began on any rank, and by rank."""
    found: dict[tuple[str, str], dict[int, list[tuple[Trace, Part, int | None]]]] = {}
    for trace in traces:
        parts = parts_of(trace)
        weights = _weights(parts)
        for part in parts:
            ranks = found.setdefault((part.path, part.component), {})
            ranks.setdefault(rank_of(trace), []).append((trace, part, weights.get(part.scope)))
    return [_row(rank, found[key][rank]) for key in _tree_order(found) for rank in sorted(found[key])]


def parts_of(trace: Trace) -> list[Part]:
    """The components that ended, by begin; the first MAX_PARTS."""
    scopes, figures = trace.scopes, _figures(trace)
    named = np.array([is_component(name) for name in trace.strings] or [False])
    stages = (scopes["level"] == ScopeLevel.STAGE) & (scopes["type"] == ScopeType.TRACE)
    chosen = (named[scopes["name"]] & stages) | np.isin(scopes["id"], list(figures))
    rows = np.flatnonzero(chosen & (scopes["end"] >= scopes["begin"]))[:MAX_PARTS]
    experts: dict[int, str] = {}
    found = []
    for row, outer in zip(rows.tolist(), _outer(trace, rows), strict=True):
        scope, parent = int(scopes["id"][row]), int(scopes["id"][outer]) if outer >= 0 else 0
        # What holds others begins before them, so that its expert is known when theirs is asked for.
        experts[scope] = _expert(trace, scope) or experts.get(parent, "")
        found.append(
            Part(
                scope=scope,
                parent=parent,
                component=f"{trace.strings[scopes['name'][row]]} {experts[scope]}".rstrip(),
                path=trace.paths[scopes["path"][row]],
                begin=int(scopes["begin"][row]),
                end=int(scopes["end"][row]),
                figures=figures.get(scope, {}),
            )
        )
    return found


def is_component(name: str) -> bool:
    """Whether a stage of this name is part of a load."""
    return name in _NAMES or name.startswith("load_")


def _expert(trace: Trace, scope: int) -> str:
    found = trace.scope_args.get(scope, {}).get("expert")
    return found if isinstance(found, str) else ""


def _figures(trace: Trace) -> dict[int, dict]:
    """Scope id -> the arguments of its mark."""
    own = np.flatnonzero([trace.strings[name] == MARK for name in trace.marks["name"]])
    return {int(trace.marks["scope"][row]): trace.mark_args.get(int(row), {}) for row in own}


def _outer(trace: Trace, rows: np.ndarray) -> list[int]:
    """For each of the rows the nearest one around it that is among them, -1 without one."""
    among, parents = set(rows.tolist()), trace.scope_rows(trace.scopes["parent"])
    found = []
    for row in rows.tolist():
        outer = int(parents[row])
        for _ in range(MAX_DEPTH):  # a damaged file can name parents in a circle
            if outer < 0 or outer in among:
                break
            outer = int(parents[outer])
        found.append(outer if outer in among else -1)
    return found


def _weights(parts: list[Part]) -> dict[int, int]:
    """Scope id -> the size of its own checkpoint, else the sum of those inside it, where any is known."""
    found: dict[int, int] = {}
    # What is inside begins, and is numbered, later: by the time of the outer one its sum is complete.
    for part in sorted(parts, key=lambda part: -part.scope):
        own = whole(part.figures.get("checkpoint_bytes"))
        if own is not None:
            found[part.scope] = own
        if part.scope in found and part.parent:
            found[part.parent] = found.get(part.parent, 0) + found[part.scope]
    return found


def _tree_order(found: dict[tuple[str, str], dict]) -> list[tuple[str, str]]:
    first = {key: min(part.begin for ranks in found[key].values() for _, part, _ in ranks) for key in found}
    return sorted(found, key=lambda key: (first[key], len(key[0])))


def _row(rank: int, occurrences: list[tuple[Trace, Part, int | None]]) -> LoadRow:
    parts = [part for _, part, _ in occurrences]
    time_ns = sum(part.end - part.begin for part in parts)
    sums = {name: _sum(whole(part.figures.get(name)) for part in parts) for name in _SUMMED}
    mapped = _sum(_mapped(part.figures) for part in parts)
    weights = _sum(size for _, _, size in occurrences)
    reads = _read_at_least(sums["storage_bytes"], sums["read_call_bytes"], mapped)
    gpu = _sum(_gpu_growth(trace, part) for trace, part, _ in occurrences)
    rate_of, size = _carried(weights, reads, gpu)
    cpu, storage = sums["process_cpu_ns"], sums["storage_bytes"]
    return LoadRow(
        component=parts[0].component,
        path=parts[0].path,
        rank=rank,
        count=len(parts),
        time_ns=time_ns,
        measured=all(part.figures for part in parts),
        shared=any(part.figures.get("shared") is True for part in parts),
        cpu_share=cpu / time_ns if cpu is not None and time_ns else None,
        weights_bytes=weights,
        mapped_bytes=mapped,
        read_bytes=reads,
        rate_bytes_per_s=size / time_ns * 1e9 if size and time_ns else None,
        rate_of=rate_of,
        storage_share=min(storage / size, 1.0) if storage is not None and size and rate_of != "gpu" else None,
        resident_begin_bytes=whole(parts[0].figures.get("resident_bytes_begin")),
        resident_end_bytes=whole(parts[-1].figures.get("resident_bytes_end")),
        gpu_bytes=gpu,
        **sums,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """None as soon as one is not known."""
    found = list(values)
    return None if None in found else sum(found)


def _mapped(figures: dict) -> int | None:
    begin, end = (whole(figures.get(f"resident_file_bytes_{side}")) for side in ("begin", "end"))
    return None if begin is None or end is None else max(end - begin, 0)


def _read_at_least(storage: int | None, calls: int | None, mapped: int | None) -> int | None:
    """Reads by call and by mapping are different bytes; what storage gave is among both."""
    if calls is None and storage is None:
        return None
    return max((calls or 0) + (mapped or 0), storage or 0)


def _carried(weights: int | None, reads: int | None, gpu: int | None) -> tuple[str | None, int]:
    """Which bytes a rate is about, and how many."""
    if weights:
        return "weights", weights
    size, name = max((reads or 0, "reads"), (gpu or 0, "gpu"))
    return (name, size) if size else (None, 0)


def _gpu_growth(trace: Trace, part: Part) -> int | None:
    """What torch's own counter grew by between the samples at the scope's two ends, over all devices; None without."""
    samples = trace.memory_samples[trace.memory_samples["device"] >= 0]
    own = samples[samples["scope"] == part.scope]
    grown = []
    for device in np.unique(own["device"]):
        at = own[own["device"] == device]
        begin, end = (at["allocated"][at["edge"] == edge] for edge in (SampleEdge.SCOPE_BEGIN, SampleEdge.SCOPE_END))
        # Where the device was first used inside the scope, nothing was allocated before.
        unused = not len(begin) and not (samples["time"][samples["device"] == device] < part.begin).any()
        if len(end) and (len(begin) or unused):
            grown.append(int(end[-1]) - (int(begin[0]) if len(begin) else 0))
    return sum(grown) if grown else None
