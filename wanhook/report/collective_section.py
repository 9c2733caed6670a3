"""The collective table."""

from __future__ import annotations

from wanhook.analysis.collectives import CollectiveRow
from wanhook.analysis.groups import GroupClass
from wanhook.analysis.ranks import mean_total
from wanhook.report.build import Report
from wanhook.report.sheet import Sheet
from wanhook.report.text import gb_per_s, mib, ms, ranks_named, span

COLUMNS = ["op and role", "calls\na rank", "MiB\na call", "total\na rank", "mean", "p50", "p95", "max", "first"]
RATES = ["algbw\nGB/s", "busbw\nGB/s"]
_CLOCKS = {
    "gpu": "GPU time (stream intervals, waits for other ranks included)",
    "host": "host time from call to completion",
    "mixed": "GPU time, or host time from call to completion",
}


def write_collectives(sheet: Sheet, report: Report) -> None:
    """Rows under their groups; then which calls have no time, and why."""
    rows = report.collectives
    if not rows:
        sheet.heading("COLLECTIVES", "none were recorded")
        return
    clocks = {row.clock for row in rows if row.clock}
    clock = _CLOCKS[clocks.pop()] if len(clocks) == 1 else _CLOCKS["mixed"]
    sheet.heading("COLLECTIVES", f"{clock}, ms")
    cells, styles, group = [], [], None
    for row in rows:
        if row.group != group:
            group = row.group
            cells.append([group_title(group)])
            styles.append("dim")
        cells.append(_cells(row))
        styles.append("")
    sheet.table(COLUMNS + RATES, cells, styles)
    for row in rows:
        if row.groups:
            sheet.line(f"{_name(row)}: {row.groups} coalesced groups of {row.members} calls in all.", "dim")
    for row in rows:
        if row.untimed:
            why = "; ".join(f"{reason} ({count})" for reason, count in row.untimed_why.items())
            sheet.line(f"{_name(row)}: without a time {row.untimed} of {row.calls} calls: {why}.", "dim")


def group_title(group: GroupClass) -> str:
    """What a group class is, in a few words."""
    if not group.size:
        return group.label
    if len(group.names) > 1:
        return f"{group.label}: {len(group.names)} x {group.size} ranks"
    plural = "s" if group.size > 1 else ""
    ranks = f", {ranks_named(group.members[0])}" if group.members else ""
    return f"{group.label}: {group.size} rank{plural}{ranks}"


def _name(row: CollectiveRow) -> str:
    return f"{row.op} {row.role}".strip()


def _cells(row: CollectiveRow) -> list[str]:
    time = row.time
    times = [mean_total(row.ranks), time.mean_ns, time.p50_ns, time.p95_ns, time.max_ns, time.first_ns]
    rates = [gb_per_s(row.algbw_bytes_per_s), gb_per_s(row.busbw_bytes_per_s)]
    return ["  " + _name(row), span(row.calls_by_rank.values()), mib(row.size_bytes), *map(ms, times), *rates]
