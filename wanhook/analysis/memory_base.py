"""The base: what is allocated when denoising begins, above all the weights, by who allocated it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.memory_owners import Owner, Sources, expert_of, owners_at
from wanhook.analysis.moments import Moment, moment_at

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

STAGE = "denoise"


@dataclass(frozen=True)
class Base:
    """Memory at the begin of the first scope named `denoise`; without one, of the first outermost scope. `begin_of` is
    its path. Owners are told apart by the expert that they belong to; only blocks of this device count, so weights
    that were loaded on the CPU first belong to the scope that brought them to the device."""

    begin_of: str
    moment: Moment
    owners: list[Owner]


def base_of(trace: Trace, timeline: AllocatorTimeline) -> Base | None:
    """None without scopes, and where what was allocated then is not known."""
    scopes = trace.scopes
    if not len(scopes):
        return None
    named = [number for number, name in enumerate(trace.strings) if name == STAGE]
    rows = np.flatnonzero(np.isin(scopes["name"], named))
    if not len(rows):
        rows = np.flatnonzero(trace.scope_rows(scopes["parent"]) < 0)
    if not len(rows):
        return None
    row = rows[:1]
    position = int(timeline.spans(scopes[row])[0][0])
    if not timeline.is_claimed(np.array([position]))[0]:
        return None
    return Base(
        begin_of=trace.paths[scopes["path"][row[0]]],
        moment=moment_at(trace, timeline, position),
        owners=owners_at(timeline, position, Sources(trace, expert_of(trace))),
    )
