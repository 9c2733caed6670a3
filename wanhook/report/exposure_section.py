"""Exposed communication, what was waited for, and the overlap matrix."""

from __future__ import annotations

from wanhook.analysis.exposed_table import ExposedRow
from wanhook.analysis.exposed_units import ExposedUnit
from wanhook.analysis.overlaps import Overlap
from wanhook.analysis.ranks import mean_total
from wanhook.analysis.waits import WaitRow
from wanhook.report.build import Report
from wanhook.report.collective_section import group_title
from wanhook.report.perturbation_lines import recorded_steps
from wanhook.report.sheet import Sheet
from wanhook.report.text import ms, percent, span

COLUMNS = ["op and role", "calls\na rank", "total\na rank", "exposed\na rank", "share"]
UNITS = 5  # of each row; those that cost a step, or else the run, the most
STEP_COLUMNS = ["total\na step", "exposed\na step", "of the\nstep"]
_CLOCKS = {
    "gpu": "GPU time, ms; the compute stream stands still for it",
    "host": "host time (no GPU), ms; the host waits in the call",
    "mixed": "GPU time, or host time, ms; the compute stream stands still for it",
}


def write_exposure(sheet: Sheet, report: Report, show_all: bool = False) -> None:
    """Nothing where no collective has a time. `show_all`: every unit."""
    rows = [row for row in report.exposure.rows if row.timed]
    if not rows:
        return
    clocks = {row.clock for row in rows}
    clock = _CLOCKS[clocks.pop() if len(clocks) == 1 else "mixed"]
    sheet.heading("EXPOSED COMMUNICATION", clock + recorded_steps(report))
    steps = report.exposure.step_ns is not None
    several = len({row.group for row in rows}) > 1
    cells = [_cells(row, several, steps) for row in rows]
    sheet.table(COLUMNS + (STEP_COLUMNS if steps else []), cells)
    if steps:
        sheet.line(f"A step: {report.exposure.step}, {ms(report.exposure.step_ns)} ms without the first.", "dim")
    for row in rows:
        if row.unknown:
            sheet.line(_unknown(row), "dim")
    for wait in report.waits:
        sheet.line(_wait(wait))
    _write_units(sheet, [row for row in rows if any(unit.exposed_ns for unit in row.units)], steps, show_all)
    if any(overlap.both_ns for overlap in report.overlaps):
        _write_overlaps(sheet, report.overlaps)


def _cells(row: ExposedRow, several: bool, steps: bool) -> list[str]:
    figures = [mean_total(row.ranks), mean_total(row.exposed_ranks)]
    cells = [_title(row, several), span(row.calls_by_rank.values()), *map(ms, figures), percent(row.share)]
    return cells + ([ms(row.step_total_ns), ms(row.step_exposed_ns), percent(row.step_share)] if steps else [])


def _title(row: ExposedRow, several: bool) -> str:
    return f"{row.name} ({group_title(row.group)})" if several else row.name


def _write_units(sheet: Sheet, rows: list[ExposedRow], steps: bool, show_all: bool) -> None:
    """Under each row's name the units for which its calls are exposed most."""
    if not rows:
        return
    cells, several = [], len({row.group for row in rows}) > 1
    for row in rows:
        shown = row.units if show_all else [unit for unit in row.units[:UNITS] if unit.exposed_ns]
        cells += [[f"{_title(row, several)}, by unit"], *(_unit_cells(unit, steps) for unit in shown)]
        rest = [unit for unit in row.units if unit not in shown]
        if rest:
            left = sum(mean_total(unit.exposed_ranks) or 0 for unit in rest)
            cells.append([f"  {len(rest)} more: {ms(left)} exposed a rank in all (--all lists them)"])
    sheet.blank()
    sheet.table(["unit", *COLUMNS[1:], *(STEP_COLUMNS[:2] if steps else [])], cells)


def _unit_cells(unit: ExposedUnit, steps: bool) -> list[str]:
    figures = [mean_total(unit.ranks), mean_total(unit.exposed_ranks)]
    cells = [f"  {unit.unit}", span(unit.calls_by_rank.values()), *map(ms, figures), percent(unit.share)]
    return cells + ([ms(unit.step_total_ns), ms(unit.step_exposed_ns)] if steps else [])


def _unknown(row: ExposedRow) -> str:
    of = f"{row.unknown} of {row.timed} timed calls run" if row.unknown < row.timed else "runs"
    return f"{row.name}: {of} on other streams, and no wait for them was recorded; what is exposed is not known."


def _wait(row: WaitRow) -> str:
    ranks = len(row.ranks)
    parts = [f"{ms(length / ranks)} for {name}" for name, length in row.waited_for.items()]
    if row.nothing_ns:
        parts.append(f"{ms(row.nothing_ns / ranks)} for none that is known")
    split = f", {', '.join(parts)}" if parts else ""
    untimed = f"; {row.untimed} in all without a time" if row.untimed else ""
    count = span(rank.count for rank in row.ranks)
    return f"{row.name}: {ms(mean_total(row.ranks))} ms in {count} waits a rank{split}{untimed}."


def _write_overlaps(sheet: Sheet, overlaps: list[Overlap]) -> None:
    names = list(dict.fromkeys(overlap.name for overlap in overlaps))
    shares = {(overlap.name, overlap.beside): overlap.share for overlap in overlaps}
    sheet.blank()
    sheet.line("Overlap: part of the row's time during which the column is on too")
    rows = [[name, *(percent(shares.get((name, beside))) for beside in names)] for name in names]
    sheet.table(["", *(name.replace(" ", "\n") for name in names)], rows)
