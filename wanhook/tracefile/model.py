"""`load()`: a run directory or one file becomes a `Run`, one `Trace` a rank's file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import frames, kernels, tables
from .clock import Clock
from .format import Kind, TraceFormatError
from .health import Health, Machine, examine
from .names import (
    Arguments,
    build_paths,
    named_threads,
    read_groups,
    read_meta,
    read_strings,
    section,
    string_list,
    whole,
)
from .reader import Slots

SUFFIX = ".wanhook"
MAX_ANCHORS = 1 << 18  # 36 hours' worth; of more, every second, third, ... one is used
MAX_WORLD_SIZE = 1 << 20
MAX_NAMED = 4  # files


class Trace:
    """One rank's recording.

    All times are int64 ns on the CLOCK_MONOTONIC of that host, -1 = not there; sizes are bytes; names are indexes
    into `strings`. The tables are numpy structured arrays with the dtypes of `wanhook.tracefile.tables`:

    - `scopes` (SCOPE, by begin): `path` indexes `paths`; `gpu_begin`/`gpu_end` is the stream interval; `open` scopes
      have no end; `first` marks the earliest scope of each path; `flags` are ScopeEndFlags. `scope_args[id]`: a dict.
    - `collectives` (COLLECTIVE, by begin): `completed` is the end of the work on host backends; `path` is that of
      the scope, -1 without one; `unit` is what it was for, such as an FSDP unit, "" when untold; `failed` when the work
      ended in an error; `span_class` and the slacks are what the recorder knew, and `analysis.span_classes` fills the
      rest; `kernel_begin`/`kernel_end` span its `kernels` on the device, which it shares with `kernel_calls` - 1 other
      calls of a coalesced group.
    - `kernels` (KERNEL, by begin): NCCL's kernels of a window; `collective` is the id of their call, 0 unmatched.
    - `allocator_events` (ALLOCATOR_EVENT, by device and sequence): `completed` is the time of a folded completion.
    - `snapshots`, `memory_samples`, `allocator_samples`, `device_samples`, `recorder_samples`, `marks`, `drops`,
      `gates`, `anchors` (by time). `mark_args[row]`: a dict.

    Also `path`, `header`, `meta`, `strings`, `paths`, `groups` (number -> Group), `threads` (number -> (tid, name)),
    `clock`, `health`.
    """

    def __init__(self, path: str | os.PathLike, machine: Machine | None = None):
        """Read one file. Raises TraceFormatError when it is no trace, OSError when it cannot be read."""
        self.path = Path(path)
        slots = Slots(self.path)
        self.header = slots.header
        self.meta = read_meta(slots)
        anchors = slots.positions(Kind.CLOCK_ANCHOR)
        anchors = anchors[:: len(anchors) // MAX_ANCHORS + 1]
        self.clock = Clock(self.header, slots.rows(Kind.CLOCK_ANCHOR, anchors), slots.note)
        self.threads = named_threads(slots)
        self._read_moments(slots)
        self._read_intervals(slots)
        self.snapshots = tables.snapshots(slots, self.clock)
        self.allocator_events = tables.allocator_events(slots, self.clock)
        strings = read_strings(slots)
        self.groups = read_groups(slots, self.meta, self.collectives["group"], strings)
        slots.drop_records()
        self._name_scopes(slots, strings)
        self.health: Health = examine(self, slots, machine or Machine())

    def _read_moments(self, slots: Slots) -> None:
        def timed(kind: Kind, dtype: np.dtype) -> np.ndarray:
            return tables.timed(slots, self.clock, kind, dtype)[0]

        self.memory_samples = timed(Kind.MEMORY_SAMPLE, tables.MEMORY_SAMPLE)
        self.allocator_samples = timed(Kind.ALLOCATOR_SAMPLE, tables.ALLOCATOR_SAMPLE)
        self.device_samples = timed(Kind.DEVICE_SAMPLE, tables.DEVICE_SAMPLE)
        self.recorder_samples = timed(Kind.RECORDER_SAMPLE, tables.RECORDER_SAMPLE)
        self.drops = timed(Kind.DROP, tables.DROP)
        self.gates = timed(Kind.GATE, tables.GATE)
        self.anchors = timed(Kind.CLOCK_ANCHOR, tables.ANCHOR)
        self.ends = timed(Kind.END, tables.END)
        self.marks, positions = tables.timed(slots, self.clock, Kind.MARK, tables.MARK)
        self.mark_args = Arguments(slots, Kind.MARK, np.arange(len(self.marks)), positions)

    def _read_intervals(self, slots: Slots) -> None:
        spans = tables.gpu_spans(slots, self.clock)
        self.scopes, positions, self._rows = tables.scopes(slots, self.clock, spans)
        self.scope_args = Arguments(slots, Kind.SCOPE_BEGIN, self.scopes["id"], positions)
        self.collectives = tables.collectives(slots, self.clock, spans)
        self.kernels = kernels.read(slots, self.clock)

    def _name_scopes(self, slots: Slots, strings: dict[int, str]) -> None:
        calls = self.collectives
        used = self.scopes["name"], self.marks["name"], calls["op"], calls["role"], calls["unit"], self.kernels["name"]
        self.strings = string_list(strings, used)
        kernels.join(self.kernels, calls, self.strings)
        parents = self.scope_rows(self.scopes["parent"])
        slots.note_loose_end(
            "scopes whose parent is not in the file", ((parents < 0) & (self.scopes["parent"] > 0)).sum()
        )
        self.scopes["path"], self.paths = build_paths(
            parents, self.scopes["name"], self.strings, budget=slots.size // 2 + (8 << 20), note=slots.note
        )
        self.scopes["first"][tables.first_rows(self.scopes["path"], len(self.paths))] = True
        self.collectives["path"] = self.path_of(self.collectives["scope"])

    @property
    def rank(self) -> int | None:
        """Global rank, None when the recording never learned it."""
        return whole(section(self.meta, "rank").get("rank"))

    @property
    def world_size(self) -> int | None:
        return whole(section(self.meta, "rank").get("world_size"), least=1)

    @property
    def run_id(self) -> str:
        """The run this file belongs to; "" when it does not say."""
        found = section(self.meta, "run").get("id")
        return found if isinstance(found, str) else ""

    @property
    def device_type(self) -> str:
        """ "cuda" or "cpu"; "" when the file does not say."""
        found = section(self.meta, "device").get("type")
        return found if isinstance(found, str) else ""

    def scope_rows(self, ids) -> np.ndarray:
        """Row in `scopes` of each scope id (int64, the shape of `ids`); -1 for 0 and for an unknown id."""
        return self._rows(ids)

    def path_of(self, ids) -> np.ndarray:
        """Index into `paths` of each scope id (int64, the shape of `ids`); -1 for 0 and for an unknown id."""
        rows = self.scope_rows(ids)
        if not len(self.scopes):
            return rows
        return np.where(rows < 0, -1, self.scopes["path"][rows])

    def to_pandas(self) -> dict:
        """Table name -> pandas.DataFrame, names and enums as text. ImportError, with the remedy, without pandas."""
        return frames.to_pandas(self)

    def __repr__(self) -> str:
        return f"<Trace {self.path.name}: rank {self.rank}, {self.health.state}, {self.health.records} records>"


class Run:
    """The traces of one run.

    `traces` holds every file of it, by rank and start, ranks that are not known last; `problems` one sentence for
    each thing that is not as it should be: unreadable files, missing ranks, other runs in the same directory.
    """

    def __init__(self, path: Path, traces: list[Trace], problems: list[str]):
        self.path, self.problems = path, problems
        self.run_id = _newest_run(traces, problems)
        own = [trace for trace in traces if trace.run_id in (self.run_id, "")]
        self.traces = sorted(own, key=_place)
        sizes = [trace.world_size for trace in self.traces if trace.world_size]
        self.world_size = max(sizes, default=None)
        if self.missing_ranks and path.is_dir():
            problems.append(_missing(self.missing_ranks, self.world_size))

    @property
    def missing_ranks(self) -> list[int]:
        """Ranks of the world without a file; empty when the size of the world is not known."""
        if self.world_size is None or self.world_size > MAX_WORLD_SIZE:
            return []
        return sorted(set(range(self.world_size)) - {trace.rank for trace in self.traces})

    def rank(self, number: int) -> Trace:
        """The latest trace of a rank; KeyError when it has none."""
        found = [trace for trace in self.traces if trace.rank == number]
        if not found:
            raise KeyError(f"rank {number} has no trace in {self.path}")
        return found[-1]

    def to_pandas(self) -> dict:
        """Table name -> pandas.DataFrame of all traces, with the column `rank` first."""
        return frames.join(self.traces)

    def __iter__(self) -> Iterator[Trace]:
        return iter(self.traces)

    def __len__(self) -> int:
        return len(self.traces)

    def __repr__(self) -> str:
        return f"<Run {self.run_id or '?'}: {len(self.traces)} traces, world size {self.world_size}>"


def _place(trace: Trace) -> tuple:
    return (trace.rank is None, trace.rank or 0, trace.header["start_realtime"], trace.header["life"], trace.path.name)


def _newest_run(traces: list[Trace], problems: list[str]) -> str:
    started: dict[str, int] = {}
    for trace in traces:
        started[trace.run_id] = max(started.get(trace.run_id, 0), trace.header["start_realtime"])
    nameless = [trace.path.name for trace in traces if not trace.run_id]
    if nameless and len(started) > 1:
        started.pop("")
        problems.append(f"{', '.join(nameless)}: the file does not say which run it belongs to; taken into this one")
    newest = max(started, key=lambda run: (started[run], run))
    for other in sorted(started.keys() - {newest}):
        files = sorted(trace.path.name for trace in traces if trace.run_id == other)
        names = ", ".join(files[:MAX_NAMED]) + ", …" * (len(files) > MAX_NAMED)
        count = f"{len(files)} file{'s' * (len(files) > 1)}"
        problems.append(
            f"the directory also holds {count} of another run, {other}, not loaded: {names}. Move them to another one "
            "to report on them"
        )
    return newest


def _missing(ranks: list[int], world_size: int) -> str:
    shown = ", ".join(map(str, ranks[:16])) + (", …" if len(ranks) > 16 else "")
    return f"rank{'s' * (len(ranks) > 1)} {shown} of {world_size} left no readable file"


def _trace_files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a run directory or one *{SUFFIX} file")
        return [path]
    files = sorted(path.glob(f"*{SUFFIX}"))
    if not files:
        inner = sorted({found.parent.name for found in path.glob(f"*/*{SUFFIX}")})
        remedy = f"give one of its run directories: {', '.join(inner[:8])}" if inner else "was anything recorded there?"
        raise FileNotFoundError(f"{path} holds no *{SUFFIX} file; {remedy}")
    return files


def load(path: str | os.PathLike, *, machine: Machine | None = None) -> Run:
    """Read a run: a run directory, or one rank's file.

    Files may still be growing. A file of the directory that cannot be read becomes a line in `Run.problems`; when
    none can, the first one's error is raised (TraceFormatError, OSError). FileNotFoundError when there is none.
    `machine` answers whether the recording processes live; by default this machine does.
    """
    path = Path(path)
    traces, problems, errors = [], [], []
    for file in _trace_files(path):
        try:
            traces.append(Trace(file, machine))
        except TraceFormatError as error:
            errors.append(error)
            problems.append(f"{file.name} cannot be read: {error.reason} (at byte {error.offset})")
        except OSError as error:
            errors.append(error)
            problems.append(f"{file.name} cannot be read: {error.strerror or error}")
    if not traces:
        raise errors[0]
    return Run(path, traces, problems)
