"""The scope table."""

from __future__ import annotations

from wanhook.analysis.ranks import RANKS_DIFFER, largest, mean_total
from wanhook.analysis.scopes import ScopeRow
from wanhook.report.build import Report
from wanhook.report.perturbation_lines import recorded_steps
from wanhook.report.sheet import Sheet
from wanhook.report.text import NOTHING, ms, percent, rank_list, span

MAX_ROWS = 40
MAX_NOTES = 8
WORTH_NAMING = 0.001  # part of the largest total below which ranks that differ are noise
_CLOCKS = {"gpu": "GPU time (stream intervals)", "host": "host time (no GPU)", "mixed": "GPU time, or host time"}


def write_scopes(sheet: Sheet, report: Report, show_all: bool) -> None:
    """Rows in tree order; without `show_all` those with the most time, and what holds them."""
    if not report.scopes:
        sheet.heading("SCOPES", "none were recorded")
        return
    ranks = {rank for row in report.scopes for rank in row.occurrences}
    clocks = {row.clock for row in report.scopes if row.clock}
    clock = _CLOCKS[clocks.pop() if len(clocks) == 1 else "mixed"]
    about = f"{clock}, ms; mean, percentiles and max leave out first occurrences"
    sheet.heading("SCOPES", about + recorded_steps(report))
    shown = report.scopes if show_all else _with_most_time(report.scopes)
    on_host = all(row.clock in ("host", None) for row in report.scopes)
    columns = ["scope", "count\na rank", "total\na rank", "mean", "p50", "p95", "max", "first"]
    columns += [] if on_host else ["host\nmean"]
    columns += ["largest\nrank"] if len(ranks) > 1 else []
    step = 2 if max(row.depth for row in report.scopes) <= 6 else 1
    floor = WORTH_NAMING * max(mean_total(row.ranks) or 0 for row in report.scopes)
    rows = [_cells(row, step, on_host) + ([_ranks(row, len(ranks), floor)] if len(ranks) > 1 else []) for row in shown]
    sheet.table(columns, rows, ["bold" if row.level == "stage" else "" for row in shown])
    if len(shown) < len(report.scopes):
        left_out = len(report.scopes) - len(shown)
        sheet.line(f"{left_out} paths with less time are left out; --all shows them.", "dim")
    _write_notes(sheet, report.scopes)


def _with_most_time(rows: list[ScopeRow]) -> list[ScopeRow]:
    keep: set[str] = set()
    for row in sorted(rows, key=lambda row: -(mean_total(row.ranks) or 0)):
        if len(keep) < MAX_ROWS:
            keep.add(row.path)
    above: list[ScopeRow] = []
    for row in rows:
        del above[row.depth :]
        above.append(row)
        if row.path in keep:
            keep.update(outer.path for outer in above)
    return [row for row in rows if row.path in keep]


def _cells(row: ScopeRow, step: int, on_host: bool) -> list[str]:
    time = row.time
    name = " " * (step * row.depth) + row.name + (" (wait)" if row.type == "wait" else "")
    figures = [mean_total(row.ranks), time.mean_ns, time.p50_ns, time.p95_ns, time.max_ns, time.first_ns]
    cells = [name, span(row.occurrences.values()), *map(ms, figures)]
    return cells + ([] if on_host else [ms(row.host.mean_ns if row.host.mean_ns is not None else row.host.first_ns)])


def _ranks(row: ScopeRow, ranks: int, floor: float) -> str:
    """Which ranks had the scope if not all, else the one with the largest total where that is worth a word."""
    if len(row.occurrences) < ranks:
        few = len(row.occurrences) <= 2
        return f"only {rank_list(row.occurrences)}" if few else f"{len(row.occurrences)} of {ranks}"
    top = largest(row.ranks)
    told = top and top[1] > RANKS_DIFFER and (mean_total(row.ranks) or 0) >= floor
    return f"{rank_list([top[0]])}: +{percent(top[1])}" if top and told else NOTHING


def _write_notes(sheet: Sheet, rows: list[ScopeRow]) -> None:
    """What the figures leave out. A scope that died with its inner ones is said once, by the innermost."""
    notes: dict[str, str] = {}
    for row in rows:
        on_host = sum(row.occurrences.values()) - row.time.count - row.open - row.unresolved
        parts = [(row.open, "still open"), (row.unresolved, "without their GPU time")]
        parts += [(on_host, "timed on the host only"), (row.failed, "left by an exception")]
        parts += [(row.muted, f"of {sum(row.occurrences.values())} muted: what they hold has no rows here")]
        said = ", ".join(f"{count} {what}" for count, what in parts if count > 0)
        outer = row.path.rpartition("/")[0]
        if notes.get(outer) == said:
            del notes[outer]
        if said:
            notes[row.path] = said
    for path, said in list(notes.items())[:MAX_NOTES]:
        sheet.line(f"{path}: {said}.", "dim")
    if len(notes) > MAX_NOTES:
        sheet.line(f"The like of {len(notes) - MAX_NOTES} more paths is in the JSON report.", "dim")
