"""The load table: each component and rank, then who waited for whom."""

from __future__ import annotations

from wanhook.analysis.load_waits import LoadWait
from wanhook.analysis.loading import LoadRow
from wanhook.report.build import Report
from wanhook.report.sheet import Sheet
from wanhook.report.text import NOTHING, gb_per_s, percent, ranks_named, seconds

GIB = 1 << 30
MAX_RANKS, MAX_WAITS, MAX_BESIDE = 8, 6, 3
WORTH_NAMING = 0.01  # part of all loading below which a wait is noise
WORTH_BESIDE = 0.1  # part of a wait below which what another rank did explains nothing
COLUMNS = ["component", "s", "CPU", "weights\nGiB", "read\nGiB", "from\nstorage", "GB/s", "to GPU\nGiB", "host\nGiB"]


def write_loading(sheet: Sheet, report: Report, show_all: bool) -> None:
    """Nothing where nothing was loaded. Without `show_all`, of many ranks only the slowest of each component."""
    if not report.loading:
        return
    sheet.heading("LOADING", "host time; CPU time by time; read: at least, page cache included; host: resident at end")
    cells, styles, left_out = [], [], 0
    for component, rows in _by_component(report.loading):
        shown = rows if show_all or len(rows) <= MAX_RANKS else [max(rows, key=lambda row: row.time_ns)]
        left_out = max(left_out, len(rows) - len(shown))
        cells += [[component], *(_cells(row) for row in shown)]
        styles += ["dim", *("" for _ in shown)]
    sheet.table(COLUMNS, cells, styles)
    if left_out:
        sheet.line(f"Of each component the slowest rank is shown; --all shows {left_out} more.", "dim")
    if any(row.shared for row in report.loading):
        sheet.line("* several threads loaded at once: CPU and bytes are those of the whole process.", "dim")
    if not all(row.measured for row in report.loading):
        sheet.line("Without CPU and bytes: scopes that wanhook.loading did not measure.", "dim")
    _write_waits(sheet, report)


def _by_component(rows: list[LoadRow]) -> list[tuple[str, list[LoadRow]]]:
    found: dict[tuple[str, str], list[LoadRow]] = {}
    for row in rows:
        found.setdefault((row.path, row.component), []).append(row)
    return [(where(*key), ranks) for key, ranks in found.items()]


def where(path: str, component: str) -> str:
    """The path with the component, which has its expert, in the place of its last name."""
    outer = path.rpartition("/")[0]
    return f"{outer}/{component}" if outer else component


def _cells(row: LoadRow) -> list[str]:
    name = f"  {ranks_named([row.rank])}" + (f", {row.count} times" if row.count > 1 else "")
    return [
        name + (" *" if row.shared else ""),
        f"{row.time_ns / 1e9:.3f}",
        percent(row.cpu_share, 0),
        gib(row.weights_bytes),
        gib(row.read_bytes),
        percent(row.storage_share, 0),
        gb_per_s(row.rate_bytes_per_s),
        gib(row.gpu_bytes),
        gib(row.resident_end_bytes),
    ]


def gib(size: int | None) -> str:
    """GiB with three decimals below 10."""
    return NOTHING if size is None else f"{size / GIB:.{3 if abs(size) < 10 * GIB else 1}f}"


def _write_waits(sheet: Sheet, report: Report) -> None:
    longest = max(row.time_ns for row in report.loading)
    for wait in [wait for wait in report.load_waits if wait.waited_ns >= WORTH_NAMING * longest][:MAX_WAITS]:
        sheet.line(_waited(wait))


def _waited(wait: LoadWait) -> str:
    text = f"{ranks_named([wait.rank]).capitalize()} waited {seconds(wait.waited_ns)} in "
    text += where(wait.path, wait.component)
    beside = [
        f"{ranks_named([one.rank])} was busy in {where(one.path, one.component)} for {seconds(one.time_ns)} of it"
        for one in wait.meanwhile[:MAX_BESIDE]
        if one.time_ns >= WORTH_BESIDE * wait.waited_ns
    ]
    return text + (f": {', '.join(beside)}." if beside else "; no other rank was busy loading then.")
