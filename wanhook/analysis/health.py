"""How the recording of each rank went, and how its process ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanhook.analysis.last_moments import LastMoments, last_moments
from wanhook.analysis.ranks import rank_of
from wanhook.analysis.run_facts import file_name

if TYPE_CHECKING:
    from wanhook.tracefile.health import Health
    from wanhook.tracefile.model import Trace

# Spans that are still on their way when a live file is read are no loss.
_ENDINGS = {
    "stopped": "clean",
    "exited": "clean",
    "full": "full",
    "disk full": "disk full",
    "failed": "failed",
}


@dataclass(frozen=True)
class Problem:
    """One sentence about what is missing or went wrong. `kind` is one word a program can match on, e.g. "crashed"."""

    rank: int
    kind: str
    text: str


@dataclass(frozen=True)
class FileHealth:
    """One trace file. Times in ns; `wall_ns` is how long was recorded, `last_seen_ns` the Unix time of the last thing
    the file tells of, `recorder_share` the CPU time of the recorder's own thread by `wall_ns`, None where the file has
    no sample of it. `moments` are there unless the ending is clean.

    `ending`: "clean", "crashed", "alive" (being written now), "unknown" (still open, and its process cannot be looked
    up from here), "full", "disk full" or "failed".
    """

    rank: int
    path: str
    ending: str
    bytes: int
    records: int
    dropped: int
    unresolved: int
    wall_ns: int
    last_seen_ns: int
    recorder_cpu_ns: int
    process_cpu_ns: int
    recorder_share: float | None
    moments: list[LastMoments]
    problems: list[Problem]

    @property
    def damaged(self) -> bool:
        """Whether the file is not what its recorder left."""
        return any(problem.kind == "damage" for problem in self.problems)


def file_health(traces: Iterable[Trace]) -> list[FileHealth]:
    """One value a trace file, in the order of the traces."""
    return [_file_health(trace) for trace in traces]


def _file_health(trace: Trace) -> FileHealth:
    health = trace.health
    ending = _ENDINGS.get(health.state) or {True: "crashed", None: "unknown", False: "alive"}[health.crashed]
    moments = [] if ending == "clean" else last_moments(trace)
    return FileHealth(
        rank=rank_of(trace),
        path=file_name(trace.path),
        ending=ending,
        bytes=int(health.bytes),
        records=int(health.records),
        dropped=int(health.dropped),
        unresolved=int(health.unresolved),
        wall_ns=int(health.wall),
        last_seen_ns=trace.clock.to_realtime(health.last_time),
        recorder_cpu_ns=int(health.resolver_cpu),
        process_cpu_ns=int(health.process_cpu),
        recorder_share=health.resolver_cpu / health.wall if health.wall > 0 and len(trace.recorder_samples) else None,
        moments=moments,
        problems=_problems(trace, health, ending),
    )


def _problems(trace: Trace, health: Health, ending: str) -> list[Problem]:
    rank = rank_of(trace)
    lasted = f"{health.wall / 1e9:.3f} s"
    found = [Problem(rank, ending, _ENDED[ending].format(lasted=lasted))] if ending in _ENDED else []
    if health.dropped:
        text = f"Records dropped: {health.dropped}. Counts are too small, memory figures are not exact."
        found.append(Problem(rank, "dropped", text))
    if health.unresolved and ending != "alive":
        text = f"GPU times never resolved: {health.unresolved}. Their scopes and collectives count as untimed."
        found.append(Problem(rank, "unresolved", text))
    found += [Problem(rank, "damage", f"The file is damaged: {text}.") for text in health.damage]
    warnings = trace.meta.get("warnings")
    found += [Problem(rank, "warning", str(text)) for text in (warnings if isinstance(warnings, list) else [])]
    left_open = int(trace.scopes["open"].sum())
    if left_open and ending == "clean":
        found.append(Problem(rank, "open scopes", f"Scopes still open when the recording ended: {left_open}."))
    return found


_ENDED = {
    "crashed": "The process died {lasted} into the recording; all records written until then are here.",
    "alive": "The recording is still going on; this report covers its first {lasted}.",
    "unknown": "The recording was not closed after {lasted}: its process died, or runs on another host.",
    "full": "The trace file reached its size limit after {lasted}; what came later was not recorded. Raise max_mb "
    "(WANHOOK_MAX_MB), or record a lower level.",
    "disk full": "The disk was full after {lasted}; what came later was not recorded. Record to another place (out, "
    "WANHOOK_OUT).",
    "failed": "The recorder turned itself off after {lasted}; what came later was not recorded.",
}
