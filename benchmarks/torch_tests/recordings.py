"""What the recordings of a test program hold: a recorder that was not there disturbs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Recorded:
    """Sums over the traces of all rank processes. ``tests``: names of the tests with a trace; ``waits``: scopes that
    FSDP's integration opened; ``tagged``: collectives that it gave the role fsdp; ``unreadable``: files that are no
    traces; ``notes``: what the recorder said it does not record."""

    traces: int = 0
    collectives: int = 0
    allocator_events: int = 0
    waits: int = 0
    tagged: int = 0
    drops: int = 0
    unreadable: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    with_collectives: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def count(directory: Path, scope: str) -> Recorded:
    """Reads every trace below ``directory``; ``scope``: the name of the scope around a test."""
    from wanhook.tracefile.model import Trace

    found, tests, with_collectives, notes = Recorded(), set(), set(), set()
    for path in sorted(directory.rglob("*.wanhook")):
        try:
            trace = Trace(path)
        except (OSError, ValueError) as error:
            found.unreadable.append(f"{path.name}: {error}")
            continue
        names = _names(trace, scope)
        tests |= names
        with_collectives |= names if len(trace.collectives) else set()
        notes |= set(trace.meta.get("notes") or ())
        _add(found, trace)
    found.tests, found.with_collectives, found.notes = sorted(tests), sorted(with_collectives), sorted(notes)
    return found


def _add(found: Recorded, trace) -> None:
    strings = list(trace.strings)
    found.traces += 1
    found.collectives += len(trace.collectives)
    found.allocator_events += len(trace.allocator_events)
    found.waits += sum(strings[name] == "fsdp wait" for name in trace.scopes["name"])
    found.tagged += sum(strings[role] == "fsdp" for role in trace.collectives["role"])
    found.drops += len(trace.drops)


def _names(trace, scope: str) -> set[str]:
    strings = list(trace.strings)
    rows = [row for row in trace.scopes if strings[row["name"]] == scope]
    return {str(trace.scope_args[row["id"]].get("test")) for row in rows}
