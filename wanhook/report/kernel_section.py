"""The kernel intervals of collectives: a table of its own, as they are not what the table of collectives shows."""

from __future__ import annotations

from wanhook.analysis.collectives import CollectiveRow
from wanhook.analysis.kernel_windows import KernelWindow
from wanhook.report.build import Report
from wanhook.report.collective_section import group_title
from wanhook.report.sheet import Sheet
from wanhook.report.text import gb_per_s, ms, ranks_named, span

COLUMNS = ["op and role", "calls\na rank", "mean", "p50", "p95", "max", "first", "algbw\nGB/s", "busbw\nGB/s"]


def write_kernels(sheet: Sheet, report: Report) -> None:
    """Nothing at all where no kernels were asked for."""
    if not report.kernel_windows:
        return
    rows = [row for row in report.collectives if row.kernel]
    sheet.heading("KERNEL INTERVALS", "of NCCL on the device, not what the stream lost, ms")
    if rows:
        _write_table(sheet, rows)
    shared = sum(row.kernel_shared for row in report.collectives)
    if shared:
        sheet.line(f"{shared} calls share their kernels with others of their coalesced group and are left out.", "dim")
    for window in report.kernel_windows:
        sheet.line(_sentence(window), "dim")


def _write_table(sheet: Sheet, rows: list[CollectiveRow]) -> None:
    cells, styles, group = [], [], None
    for row in rows:
        if row.group != group:
            group = row.group
            cells.append([group_title(group)])
            styles.append("dim")
        time = row.kernel
        times = [time.mean_ns, time.p50_ns, time.p95_ns, time.max_ns, time.first_ns]
        rates = [gb_per_s(row.kernel_algbw_bytes_per_s), gb_per_s(row.kernel_busbw_bytes_per_s)]
        calls = span(row.kernel_calls_by_rank.values())
        cells.append([f"  {row.op} {row.role}".rstrip(), calls, *map(ms, times), *rates])
        styles.append("")
    sheet.table(COLUMNS, cells, styles)


def _sentence(window: KernelWindow) -> str:
    where = f"{ranks_named([window.rank])}, {window.scope} {window.instance} ({ms(window.lasted_ns)} ms)"
    found = f"{window.kernels - window.unmatched} of {window.kernels} kernels belong to a call"
    calls = f"{window.without_kernel} of {window.calls} calls have none"
    late = "" if window.gpu_finished else "; the GPU had not finished, so kernels are missing"
    spent = f"{ms(window.opening_ns)} ms before and {ms(window.closing_ns)} ms after it"
    return f"{where}: {found}, {calls}{late}. Cost: {spent}."
