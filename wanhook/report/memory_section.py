"""The memory section: what every report shows, and with `details` all of the rank with the largest peak."""

from __future__ import annotations

from wanhook.analysis.memory import DeviceMemory, Peak
from wanhook.analysis.memory_by_scope import ScopeMemory
from wanhook.analysis.memory_owners import Owner, Source
from wanhook.report.build import Report
from wanhook.report.memory_details import write_details
from wanhook.report.perturbation_lines import recorded_steps
from wanhook.report.sheet import Sheet
from wanhook.report.text import NOTHING, mib, on_ranks, percent, rank_cell, ranks_named, seconds, source_text

MAX_RANKS, MAX_OWNERS, MAX_OF_BASE = 16, 12, 4


def write_memory(sheet: Sheet, report: Report, show_all: bool, details: bool = False) -> None:
    """Without `show_all`, the ranks with the largest peaks, the largest owners, and stages only."""
    if not report.memory:
        sheet.heading("MEMORY", "no allocator events were recorded")
        return
    on_gpu = any(state.reserved_peak for state in report.memory)
    on_device = "allocated: bytes of live blocks; reserved: bytes in segments; slack: the difference"
    about = "MiB; " + (on_device if on_gpu else "allocated: bytes of live CPU tensors")
    sheet.heading("MEMORY", about + recorded_steps(report))
    largest = sorted(report.memory, key=_peak, reverse=True)
    shown = report.memory if show_all or len(largest) <= MAX_RANKS else largest[:MAX_RANKS]
    _write_ranks(sheet, shown, on_gpu)
    if len(shown) < len(largest):
        sheet.line(f"{len(largest) - len(shown)} ranks with smaller peaks are left out; --all shows them.", "dim")
    for text in dict.fromkeys(why for state in report.memory for why in state.inexact):
        where = on_ranks(state.rank for state in report.memory if text in state.inexact)
        sheet.line(f"Not exact {where}: {text}.", "yellow")
    _write_owners(sheet, largest[0], show_all)
    _write_base(sheet, largest[0])
    _write_stages(sheet, report, on_gpu, show_all)
    if details:
        write_details(sheet, report, largest[0], show_all)


def _peak(state: DeviceMemory) -> int:
    """The bytes by which ranks are compared."""
    return (state.reserved_peak or state.allocated_peak).moment.reserved_bytes or _allocated(state)


def _allocated(state: DeviceMemory) -> int:
    return state.allocated_peak.moment.allocated_bytes


def _write_ranks(sheet: Sheet, states: list[DeviceMemory], on_gpu: bool) -> None:
    columns = ["rank", "allocated\npeak", "base", "allocated\nat end"]
    if on_gpu:
        columns = ["rank", "reserved\npeak", "slack\nthen", "largest\nfree then", *columns[1:]]
        columns += ["pending\npeak", "outside\ntorch", "device\nused"]
    several = len(states) != len({state.rank for state in states})
    rows = []
    for state in states:
        name = rank_cell(state.rank, state.device if several else None)
        base = state.base.moment.allocated_bytes if state.base else None
        sizes = [_allocated(state), base, state.end.allocated_bytes if state.end_known else None]
        if on_gpu:
            use = state.device_use
            sizes = [*_at_reserved_peak(state), *sizes, state.deferred.peak_bytes if state.deferred else 0]
            sizes += [use.outside_most.bytes, use.used.bytes] if use else [None, None]
        rows.append([name, *map(mib, sizes)])
    sheet.table(columns, rows)


def _at_reserved_peak(state: DeviceMemory) -> list[int | None]:
    if state.reserved_peak is None:
        return [None, None, None]
    moment = state.reserved_peak.moment
    return [moment.reserved_bytes, moment.reserved_bytes - moment.allocated_bytes, moment.largest_free_bytes]


def _write_owners(sheet: Sheet, state: DeviceMemory, show_all: bool) -> None:
    """Who had allocated what was live at the two peaks of the rank with the largest one."""
    peak, held = state.allocated_peak, state.reserved_peak
    sheet.blank()
    sheet.line(f"Owners of the live bytes of {ranks_named([state.rank])}, by the scope that allocated them", "bold")
    sheet.line(_describe("allocated", peak, peak.moment.allocated_bytes))
    if held:
        sheet.line(_describe("reserved", held, held.moment.reserved_bytes))
    at_peak = {owner.source: owner for owner in peak.owners}
    then = {owner.source: owner for owner in held.owners} if held else {}
    sources = sorted({*at_peak, *then}, key=lambda one: (-max(_live(at_peak.get(one)), _live(then.get(one))), str(one)))
    shown = sources if show_all else sources[:MAX_OWNERS]
    columns = ["allocated in", "at allocated\npeak", "share", "blocks"]
    columns += ["at reserved\npeak", "share"] if held else []
    rows = [_owner_row(source, at_peak, peak, then, held) for source in shown]
    if rows:
        sheet.table(columns, rows, keep_end=True)
    if len(shown) < len(sources):
        sheet.line(f"{len(sources) - len(shown)} smaller owners are left out; --all shows them.", "dim")


def _write_base(sheet: Sheet, state: DeviceMemory) -> None:
    """The base in a sentence; the details have its table."""
    base = state.base
    if base is None or not base.moment.allocated_bytes:
        return
    parts = [f"{source_text(owner.source)} {mib(owner.allocated_bytes)}" for owner in base.owners[:MAX_OF_BASE]]
    more = f" and {len(base.owners) - MAX_OF_BASE} more" if len(base.owners) > MAX_OF_BASE else ""
    size = mib(base.moment.allocated_bytes)
    sheet.line(f"Base, allocated when {base.begin_of} begins: {size} MiB, of these {', '.join(parts)}{more}.")


def _owner_row(
    source: Source, at_peak: dict[Source, Owner], peak: Peak, then: dict[Source, Owner], held: Peak | None
) -> list[str]:
    owner = at_peak.get(source)
    row = [source_text(source), *_part(owner, peak), str(owner.blocks) if owner else NOTHING]
    return row + (_part(then.get(source), held) if held else [])


def _describe(kind: str, peak: Peak, size: int | None) -> str:
    where = f" in {peak.moment.path}" if peak.moment.path else ""
    return f"Peak of {kind} bytes: {mib(size)} MiB, first reached after {seconds(peak.moment.at_ns)}{where}."


def _live(owner: Owner | None) -> int:
    return owner.allocated_bytes if owner else 0


def _part(owner: Owner | None, peak: Peak) -> list[str]:
    if owner is None or not peak.moment.allocated_bytes:
        return [NOTHING, NOTHING]
    return [mib(owner.allocated_bytes), percent(owner.allocated_bytes / peak.moment.allocated_bytes)]


def _write_stages(sheet: Sheet, report: Report, on_gpu: bool, show_all: bool) -> None:
    """While a scope is open: of the rank on which its peak is largest."""
    largest: dict[str, tuple[ScopeMemory, int]] = {}
    for state in report.memory:
        for scope in state.scopes:
            known = largest.get(scope.path)
            if known is None or scope.allocated_peak.max_bytes > known[0].allocated_peak.max_bytes:
                largest[scope.path] = scope, state.rank
    rows = []
    for row in report.scopes:
        if row.path in largest and (show_all or row.level == "stage"):
            scope, rank = largest[row.path]
            rows.append(["  " * row.depth + row.name, *_stage_cells(scope, on_gpu), rank_cell(rank)])
    if rows:
        sheet.blank()
        sheet.line("Inside " + ("scopes" if show_all else "stages") + ", largest of their occurrences", "bold")
        columns = ["scope", "allocated\npeak", "mean of\npeaks", "activation", "growth", "left\nbehind"]
        columns += ["reserved\npeak", "slack", "external"] if on_gpu else []
        sheet.table([*columns, "on rank"], rows)


def _stage_cells(scope: ScopeMemory, on_gpu: bool) -> list[str]:
    extents = [scope.activation.max_bytes, scope.growth.max_bytes, scope.left_behind.max_bytes]
    sizes = [scope.allocated_peak.max_bytes, scope.allocated_peak.mean_bytes, *extents]
    if on_gpu:
        sizes += [extent.max_bytes if extent else None for extent in (scope.reserved_peak, scope.slack)]
    return [*map(mib, sizes), *([percent(scope.external_share)] if on_gpu else [])]
