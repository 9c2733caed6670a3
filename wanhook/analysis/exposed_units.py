"""Exposed communication by unit: the part of the program, such as an FSDP unit, that collectives were called for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wanhook.analysis.ranks import RankTotal, calls_by_rank, totals_by_rank


@dataclass(frozen=True)
class ExposedUnit:
    """The calls of a row of the exposure table that were made for one unit; figures as in ExposedRow."""

    unit: str
    calls_by_rank: dict[int, int]
    timed: int
    total_ns: int
    exposed_ns: int | None
    share: float | None
    ranks: list[RankTotal]
    exposed_ranks: list[RankTotal]
    step_total_ns: float | None
    step_exposed_ns: float | None


def exposed_units(calls: np.ndarray, names: list[str], steps: int, known: bool) -> list[ExposedUnit]:
    """By what is exposed in a step, then in all, largest first. Calls without a unit are in none.

    `calls`: a structured array with rank, length, exposed, in_step, exposed_in_step (int64 ns), timed, and unit, which
    indexes `names`. `steps`: over how many steps those in them are spread. `known`: whether what is exposed is known.
    """
    calls = calls[np.argsort(calls["unit"], kind="stable")]
    bounds = np.searchsorted(calls["unit"], np.arange(len(names) + 1))
    found = [
        _of_unit(name, calls[bounds[at] : bounds[at + 1]], steps, known)
        for at, name in enumerate(names)
        if name and bounds[at] < bounds[at + 1]
    ]
    return sorted(found, key=lambda unit: (-(unit.step_exposed_ns or 0), -(unit.exposed_ns or 0), -unit.total_ns))


def _of_unit(name: str, calls: np.ndarray, steps: int, known: bool) -> ExposedUnit:
    timed = calls[calls["timed"]]
    known = known and len(timed) > 0
    total, exposed = int(timed["length"].sum()), int(timed["exposed"].sum())
    return ExposedUnit(
        unit=name,
        calls_by_rank=calls_by_rank(calls["rank"]),
        timed=len(timed),
        total_ns=total,
        exposed_ns=exposed if known else None,
        share=exposed / total if known and total else None,
        ranks=totals_by_rank(timed["rank"], timed["length"]),
        exposed_ranks=totals_by_rank(timed["rank"], timed["exposed"]) if known else [],
        step_total_ns=int(timed["in_step"].sum()) / steps if steps else None,
        step_exposed_ns=int(timed["exposed_in_step"].sum()) / steps if steps and known else None,
    )
