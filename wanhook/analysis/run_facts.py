"""What ran where: the facts that the ranks wrote about themselves, and where they differ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wanhook.analysis.groups import GroupClass, GroupClasses
from wanhook.analysis.ranks import rank_of

if TYPE_CHECKING:
    from wanhook.tracefile.model import Run, Trace

# Sections of a trace's meta object that should agree on every rank, and keys in them that need not.
_COMPARED = ("versions", "allocator", "environment", "wanhook", "device", "file_system")
_OWN_TO_A_RANK = {("device", "index"), ("device", "uuid")}


@dataclass(frozen=True)
class Fact:
    """A value that all given ranks share."""

    value: str
    ranks: list[int]


@dataclass(frozen=True)
class RunFacts:
    """`started_ns` is Unix time in ns of the first rank's begin, `lasted_ns` the longest recording. `facts` holds, by
    dotted name ("versions.torch"), the values and the ranks that have each; `differences` names those with several."""

    run_id: str | None
    name: str | None
    started_ns: int | None
    lasted_ns: int
    world_size: int | None
    ranks: list[int]
    missing_ranks: list[int]
    hosts: list[Fact]
    facts: dict[str, list[Fact]]
    differences: list[str]
    groups: list[GroupClass]
    notes: list[Fact]
    problems: list[str]


def run_facts(run: Run) -> RunFacts:
    """The facts of a run; whatever a file does not say is left out."""
    facts: dict[str, list[Fact]] = {}
    for section in _COMPARED:
        keys = sorted({key for trace in run.traces for key in _section(trace, section)})
        for key in keys:
            values = [(rank_of(trace), _section(trace, section).get(key)) for trace in run.traces]
            facts[f"{section}.{key}"] = _by_value(values)
    own = {".".join(key) for key in _OWN_TO_A_RANK}
    starts = [trace.header["start_realtime"] for trace in run.traces]
    return RunFacts(
        run_id=run.run_id,
        name=next((name for trace in run.traces if (name := _section(trace, "run").get("name"))), None),
        started_ns=min(starts) if starts else None,
        lasted_ns=max((int(trace.health.wall) for trace in run.traces), default=0),
        world_size=run.world_size,
        ranks=sorted({rank_of(trace) for trace in run.traces}),
        missing_ranks=sorted(run.missing_ranks or []),
        hosts=_by_value([(rank_of(trace), _section(trace, "process").get("host")) for trace in run.traces]),
        facts=facts,
        differences=[name for name, values in facts.items() if len(values) > 1 and name not in own],
        groups=GroupClasses(run.traces).all(),
        notes=_notes(run),
        problems=[file_name(problem) for problem in run.problems],
    )


def file_name(path: os.PathLike | str) -> str:
    """A path as text that every encoding of Unicode takes; bytes of it that are no UTF-8 become escapes."""
    return str(path).encode(errors="backslashreplace").decode()


def _section(trace: Trace, name: str) -> dict[str, Any]:
    found = trace.meta.get(name)
    return found if isinstance(found, dict) else {}


def _by_value(values: list[tuple[int, Any]]) -> list[Fact]:
    """Ranks by value, the value of most ranks first. A rank that says nothing counts as "not set"."""
    ranks: dict[str, list[int]] = {}
    for rank, value in values:
        text = "not set" if value is None else str(value)
        if rank not in ranks.setdefault(text, []):
            ranks[text].append(rank)
    return sorted((Fact(value, found) for value, found in ranks.items()), key=lambda fact: -len(fact.ranks))


def _notes(run: Run) -> list[Fact]:
    ranks: dict[str, list[int]] = {}
    for trace in run.traces:
        notes = trace.meta.get("notes")
        for note in notes if isinstance(notes, list) else []:
            ranks.setdefault(str(note), []).append(rank_of(trace))
    return [Fact(note, sorted(set(found))) for note, found in ranks.items()]
