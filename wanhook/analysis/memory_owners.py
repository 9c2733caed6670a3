"""Who allocated the live blocks: bytes by the path of the scope that was open when a block was allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import BEFORE_RECORDING, NOT_RECORDED, AllocatorTimeline
from wanhook.tracefile.names import MAX_DEPTH

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_OUTSIDE, _UNKNOWN = 0, -3
_KINDS = {
    BEFORE_RECORDING: "before recording",
    NOT_RECORDED: "while not recording",
    _OUTSIDE: "outside scopes",
    _UNKNOWN: "unknown scope",
}


@dataclass(frozen=True)
class Source:
    """Where blocks were allocated. `kind` is "scope" (then `path` names it), "outside scopes", "before recording",
    "while not recording" (paused, or records were lost) or "unknown scope" (its begin is lost). `component` is the
    argument `expert` of that scope or of the nearest one around it that has it, where owners are told apart by it."""

    kind: str
    path: str | None
    component: str | None = None


@dataclass(frozen=True)
class Owner:
    """Blocks of one source: bytes of those that are allocated (block sizes), of those that are freed and wait for
    another stream, and bytes as asked for, of both."""

    source: Source
    allocated_bytes: int
    pending_bytes: int
    requested_bytes: int
    blocks: int


class Sources:
    """Numbers the sources of scope ids. `component` adds the expert to a source, given the row of its scope."""

    def __init__(self, trace: Trace, component: Callable[[int], str | None] | None = None) -> None:
        self._trace, self._component = trace, component

    def number(self, scopes: np.ndarray) -> tuple[np.ndarray, list[Source]]:
        """Scope ids (int64[n]) -> the number of each one's source (int64[n]), and the sources."""
        ids, place = np.unique(scopes, return_inverse=True)
        rows = self._trace.scope_rows(np.maximum(ids, 0))
        numbers: dict[Source, int] = {}
        of_id = [
            numbers.setdefault(self._source(scope, row), len(numbers))
            for scope, row in zip(ids.tolist(), rows.tolist(), strict=True)
        ]
        return np.array(of_id, np.int64)[place.reshape(-1)], list(numbers)

    def _source(self, scope: int, row: int) -> Source:
        if scope <= 0 or row < 0:
            return Source(_KINDS.get(scope, _KINDS[_UNKNOWN]), None)
        path = self._trace.paths[self._trace.scopes["path"][row]]
        return Source("scope", path, self._component(row) if self._component else None)


def expert_of(trace: Trace) -> Callable[[int], str | None]:
    """A function: row of a scope -> the argument `expert` of it or of the nearest scope around it, None without."""
    parents = trace.scope_rows(trace.scopes["parent"])
    known: dict[int, str | None] = {}

    def find(row: int) -> str | None:
        way: list[int] = []
        # Parents of a damaged file can form a circle.
        while row >= 0 and row not in known and len(way) < MAX_DEPTH:
            said = trace.scope_args.get(int(trace.scopes["id"][row]), {}).get("expert")
            if said is not None:
                known[row] = str(said)
                break
            way.append(row)
            row = int(parents[row])
        found = known.get(row)
        known.update(dict.fromkeys(way, found))
        return found

    return find


def owners_at(timeline: AllocatorTimeline, position: int, sources: Sources) -> list[Owner]:
    """Owners of the blocks at a position, those with the most bytes first."""
    return owners_of(timeline.blocks[timeline.alive(position)], position, sources)


def owners_of(blocks: np.ndarray, position: int, sources: Sources) -> list[Owner]:
    """Owners of the blocks given (rows of AllocatorTimeline.blocks), as they are at a position."""
    numbers, found = sources.number(blocks["scope"])
    pending = blocks["freed"] <= position
    columns = [
        np.bincount(numbers, weights, len(found)).astype(np.int64).tolist()
        for weights in (np.where(pending, 0, blocks["size"]), np.where(pending, blocks["size"], 0), blocks["requested"])
    ]
    counts = np.bincount(numbers, minlength=len(found)).tolist()
    owners = [Owner(*fields) for fields in zip(found, *columns, counts, strict=True)]
    return sorted(owners, key=lambda owner: -(owner.allocated_bytes + owner.pending_bytes))
