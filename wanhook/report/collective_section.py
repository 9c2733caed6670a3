"""The collective table."""

from __future__ import annotations

from wanhook.analysis.collectives import CollectiveRow
from wanhook.analysis.groups import GroupClass
from wanhook.analysis.ranks import mean_total
from wanhook.analysis.span_classes import KernelBounds
from wanhook.report.build import Report
from wanhook.report.perturbation_lines import recorded_steps
from wanhook.report.sheet import Sheet
from wanhook.report.text import gb_per_s, mib, ms, percent, ranks_named, span, us

COLUMNS = ["op and role", "calls\na rank", "MiB\na call", "total\na rank", "mean", "p50", "p95", "max", "first"]
RATES = ["algbw\nGB/s", "busbw\nGB/s"]
KERNEL_COLUMNS = [
    "op and role", "busy,\nalone", "over-\nlapped", "\nidle", "not\nknown", "begin\nwithin", "\np95", "end\nwithin",
    "\np95", "alone\nmean ms",
]  # fmt: skip
_CLOCKS = {
    "gpu": "GPU time (from a call's turn to its end, waits for other ranks included)",
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
    sheet.heading("COLLECTIVES", f"{clock}, ms{recorded_steps(report)}")
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
        if row.queued:
            sheet.line(_queued(row), "dim")
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


def _queued(row: CollectiveRow) -> str:
    ranks = len(row.ranks)
    behind = row.queued_behind.items()
    whom = ", ".join(f"{name} {ms(length / ranks)}" if len(behind) > 1 else name for name, length in behind)
    return (
        f"{_name(row)}: {row.queued} of {row.calls} calls waited before their turn, {ms(row.queued_ns / ranks)} ms a "
        f"rank, for an earlier call of the group; that is not in their times: {whom}."
    )


def _name(row: CollectiveRow) -> str:
    return f"{row.op} {row.role}".strip()


def write_kernel_bounds(sheet: Sheet, report: Report) -> None:
    """Where in their stream intervals the kernels lie, by row of the collective table."""
    rows = [row for row in report.collectives if row.kernel_bounds]
    if not rows:
        return
    sheet.heading(
        "THEIR KERNELS", "share of calls by class; us from a call's turn to its kernel's begin, and at the end"
    )
    sheet.table(KERNEL_COLUMNS, [_kernel_cells(_name(row), row.kernel_bounds) for row in rows], [""] * len(rows))
    pairs = sorted({us(row.kernel_bounds.pair_ns) for row in rows if row.kernel_bounds.pair_ns is not None})
    if pairs:
        off = pairs[0] if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
        sheet.line(f"Only the column at the right is corrected: busy and alone, the events cost {off} us.", "dim")


def _kernel_cells(name: str, bounds: KernelBounds) -> list[str]:
    calls = sum(bounds.classes.values())
    shares = [
        percent(bounds.classes.get(kind, 0) / calls, 0) for kind in ("busy_alone", "overlapped", "idle", "unknown")
    ]
    begin = [us(bounds.begin_slack_p50_ns), us(bounds.begin_slack_p95_ns)]
    end = [us(bounds.end_slack_p50_ns), us(bounds.end_slack_p95_ns)]
    return ["  " + name, *shares, *begin, *end, ms(bounds.alone_mean_ns)]


def _cells(row: CollectiveRow) -> list[str]:
    time = row.time
    times = [mean_total(row.ranks), time.mean_ns, time.p50_ns, time.p95_ns, time.max_ns, time.first_ns]
    rates = [gb_per_s(row.algbw_bytes_per_s), gb_per_s(row.busbw_bytes_per_s)]
    return ["  " + _name(row), span(row.calls_by_rank.values()), mib(row.size_bytes), *map(ms, times), *rates]
