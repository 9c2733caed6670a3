"""The scope table: each path of scopes, over all its occurrences and over the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.durations import Durations, summarise
from wanhook.analysis.ranks import RankTotal, on_gpu, rank_of, totals_by_rank
from wanhook.analysis.warm_up import first_occurrences
from wanhook.tracefile.format import ScopeEndFlags, ScopeLevel, ScopeType, ScopeVerify

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


@dataclass(frozen=True)
class ScopeRow:
    """One path. `occurrences` counts all of them, by rank; `time` pools the stream intervals of those that have one
    (host intervals on ranks without a GPU: `clock` says which, "mixed" when ranks differ, None when nothing was timed);
    `host` pools the host intervals of all that ended. `open` never ended, `unresolved` were promised a stream interval
    that is not in the file, `failed` were left by an exception. `muted` are steps of the perturbation check: nothing
    was recorded inside them, and what they hold is missing from the rows below this one."""

    path: str
    name: str
    depth: int
    level: str
    type: str
    clock: str | None
    occurrences: dict[int, int]
    time: Durations
    host: Durations
    ranks: list[RankTotal]
    open: int
    unresolved: int
    failed: int
    muted: int


@dataclass
class _Path:
    name: str
    parent: str | None
    level: str
    type: str


_COLUMNS = np.dtype(
    [("path", "i8"), ("rank", "i8"), ("length", "i8"), ("host", "i8"), ("gpu", "?"), ("first", "?"), ("open", "?"),
     ("unresolved", "?"), ("failed", "?"), ("muted", "?")]
)  # fmt: skip


def scope_table(traces: Sequence[Trace]) -> list[ScopeRow]:
    """Rows in the order of a tree: a path before what it holds, siblings by when the first of them began."""
    paths: dict[str, _Path] = {}
    numbers: dict[str, int] = {}
    parts = [_columns(trace, paths, numbers) for trace in traces]
    for part, first in zip(parts, first_occurrences(traces, [part["path"] for part in parts]), strict=True):
        part["first"] = first
    table = np.concatenate([np.empty(0, _COLUMNS), *parts])
    table = table[np.argsort(table["path"], kind="stable")]
    bounds = np.searchsorted(table["path"], np.arange(len(numbers) + 1))
    return [
        _row(path, depth, paths[path], table[bounds[numbers[path]] : bounds[numbers[path] + 1]])
        for path, depth in _in_tree_order(paths)
    ]


def _columns(trace: Trace, paths: dict[str, _Path], numbers: dict[str, int]) -> np.ndarray:
    scopes = trace.scopes
    translate = _register_paths(trace, paths, numbers)
    out = np.zeros(len(scopes), _COLUMNS)
    out["path"] = translate[scopes["path"]]
    out["rank"] = rank_of(trace)
    out["open"] = scopes["open"]
    out["muted"] = scopes["verify"] == ScopeVerify.MUTED
    out["failed"] = (scopes["flags"] & ScopeEndFlags.EXCEPTION) != 0
    ended = ~scopes["open"] & (scopes["end"] >= scopes["begin"])
    out["host"] = np.where(ended, scopes["end"] - scopes["begin"], -1)
    if on_gpu(trace):
        timed = (scopes["gpu_begin"] >= 0) & (scopes["gpu_end"] >= scopes["gpu_begin"])
        out["length"] = np.where(timed, scopes["gpu_end"] - scopes["gpu_begin"], -1)
        out["gpu"] = timed
        out["unresolved"] = ~timed & ended & scopes["timed"]
    else:
        out["length"] = out["host"]
    return out


def _register_paths(trace: Trace, paths: dict[str, _Path], numbers: dict[str, int]) -> np.ndarray:
    """Adds the trace's paths to those of all traces; returns the number there of each of them, shape (paths,)."""
    scopes = trace.scopes
    translate = np.zeros(len(trace.paths), np.int64)
    used, rows = np.unique(scopes["path"], return_index=True)
    parents = trace.path_of(scopes["parent"][rows])
    for where in np.argsort(rows):
        path, row = trace.paths[used[where]], rows[where]
        translate[used[where]] = numbers.setdefault(path, len(numbers))
        if path in paths:
            continue
        parent = trace.paths[parents[where]] if parents[where] >= 0 else None
        # A damaged file can name any parent; only a true prefix keeps the tree free of cycles.
        if parent is not None and not path.startswith(parent + "/"):
            parent = None
        name = path[len(parent) + 1 :] if parent is not None else path
        level, kind = _name_of(ScopeLevel, scopes["level"][row]), _name_of(ScopeType, scopes["type"][row])
        paths[path] = _Path(name, parent, level, kind)
    return translate


def _name_of(names: type[IntEnum], value: int) -> str:
    return names(value).name.lower() if value in set(names) else f"unknown {value}"


def _in_tree_order(paths: dict[str, _Path]) -> Iterator[tuple[str, int]]:
    children: dict[str | None, list[str]] = {}
    for path, about in paths.items():
        children.setdefault(about.parent if about.parent in paths else None, []).append(path)
    stack = [(path, 0) for path in reversed(children.get(None, []))]
    while stack:
        path, depth = stack.pop()
        yield path, depth
        stack.extend((child, depth + 1) for child in reversed(children.get(path, [])))


def _row(path: str, depth: int, about: _Path, table: np.ndarray) -> ScopeRow:
    timed, ended = table[table["length"] >= 0], table[table["host"] >= 0]
    clocks = {"gpu" if on else "host" for on in np.unique(timed["gpu"])}
    ranks, occurrences = np.unique(table["rank"], return_counts=True)
    return ScopeRow(
        path=path,
        name=about.name,
        depth=depth,
        level=about.level,
        type=about.type,
        clock=None if not clocks else clocks.pop() if len(clocks) == 1 else "mixed",
        occurrences=dict(zip(ranks.tolist(), occurrences.tolist(), strict=True)),
        time=summarise(timed["length"], timed["first"]),
        host=summarise(ended["host"], ended["first"]),
        ranks=totals_by_rank(timed["rank"], timed["length"]),
        open=int(table["open"].sum()),
        unresolved=int(table["unresolved"].sum()),
        failed=int(table["failed"].sum()),
        muted=int(table["muted"].sum()),
    )


def innermost_paths(paths: Iterable[str]) -> set[str]:
    """Of these, the ones that none of the others lies in. In one pass: a program can invent names without end."""
    distinct, outer = set(paths), set()
    for path in distinct:
        end = path.rfind("/")
        while end >= 0 and path[:end] not in outer:
            outer.add(path[:end])
            end = path.rfind("/", 0, end)
    return distinct - outer
