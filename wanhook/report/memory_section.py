"""The memory tables: each rank, owners of the peak, peaks inside stages."""

from __future__ import annotations

from wanhook.analysis.memory import DeviceMemory, Moment, Owner
from wanhook.report.build import Report
from wanhook.report.sheet import Sheet
from wanhook.report.text import MIB, NOTHING, mib, percent, rank_list, ranks_named, seconds

MAX_RANKS, MAX_OWNERS = 16, 12


def write_memory(sheet: Sheet, report: Report, show_all: bool) -> None:
    """Without `show_all`, the ranks with the largest peaks, the largest owners, and stages only."""
    if not report.memory:
        sheet.heading("MEMORY", "no allocator events were recorded")
        return
    on_gpu = any(state.reserved_peak for state in report.memory)
    requested = "requested: live bytes as asked for" if on_gpu else "requested: live bytes of CPU tensors"
    sheet.heading("MEMORY", "MiB; " + ("reserved: bytes in segments; " if on_gpu else "") + requested)
    largest = sorted(report.memory, key=_peak, reverse=True)
    shown = report.memory if show_all or len(largest) <= MAX_RANKS else largest[:MAX_RANKS]
    _write_ranks(sheet, shown, on_gpu)
    if len(shown) < len(largest):
        sheet.line(f"{len(largest) - len(shown)} ranks with smaller peaks are left out; --all shows them.", "dim")
    _write_comparison(sheet, report.memory)
    for text in dict.fromkeys(why for state in report.memory for why in state.inexact):
        where = ranks_named(state.rank for state in report.memory if text in state.inexact)
        sheet.line(f"Not exact on {where}: {text}.", "yellow")
    _write_owners(sheet, largest[0], show_all)
    _write_stages(sheet, report, on_gpu, show_all)


def _peak(state: DeviceMemory) -> int:
    """The bytes by which ranks are compared."""
    return state.reserved_peak.reserved_bytes if state.reserved_peak else state.requested_peak.requested_bytes


def _write_ranks(sheet: Sheet, states: list[DeviceMemory], on_gpu: bool) -> None:
    columns = ["rank", "requested\npeak", "requested\nat start", "requested\nat end"]
    if on_gpu:
        columns = ["rank", "reserved\npeak", "requested\nthen", "gap\nthen", *columns[1:]]
        columns += ["reserved\nat end", "allocated\n(torch)", "device\nused"]
    several = len(states) != len({state.rank for state in states})
    rows = []
    for state in states:
        name = rank_list([state.rank]) + (f", device {state.device}" if several else "")
        sizes = [state.requested_peak.requested_bytes, state.requested_start_bytes, state.requested_end_bytes]
        if on_gpu:
            sizes = [*_at_reserved_peak(state), *sizes]
            sizes += [state.reserved_end_bytes, state.torch_allocated_bytes, state.device_used_bytes]
        rows.append([name, *map(mib, sizes)])
    sheet.table(columns, rows)


def _at_reserved_peak(state: DeviceMemory) -> list[int | None]:
    peak = state.reserved_peak
    if peak is None or peak.reserved_bytes is None:
        return [None, None, None]
    return [peak.reserved_bytes, peak.requested_bytes, peak.reserved_bytes - peak.requested_bytes]


def _write_comparison(sheet: Sheet, states: list[DeviceMemory]) -> None:
    """Ours against torch's own counters, wherever the recording holds them."""
    parts = []
    for name in ("reserved", "requested"):
        known = [found for state in states if (found := getattr(state, f"compared_{name}"))]
        if known:
            largest = max(found.largest_difference_bytes for found in known)
            off = f" (largest difference {largest / MIB:.3f} MiB)" if largest else ""
            equal, places = sum(found.equal for found in known), sum(found.places for found in known)
            parts.append(f"{name} bytes at {equal} of {places} places{off}")
    if parts:
        sheet.line(f"Equal to torch's own counters: {', '.join(parts)}.", "dim")


def _write_owners(sheet: Sheet, state: DeviceMemory, show_all: bool) -> None:
    """Who had allocated what was live at the two peaks of the rank with the largest one."""
    peak, held = state.requested_peak, state.reserved_peak
    sheet.blank()
    sheet.line(f"Owners of the live bytes of {ranks_named([state.rank])}, by the scope that allocated them", "bold")
    sheet.line(_describe("requested", peak))
    if held:
        sheet.line(_describe("reserved", held))
    at_peak = {_owner(owner): owner for owner in peak.owners}
    then = {_owner(owner): owner for owner in held.owners} if held else {}
    names = sorted({*at_peak, *then}, key=lambda name: -max(_bytes(at_peak.get(name)), _bytes(then.get(name))))
    shown = names if show_all else names[:MAX_OWNERS]
    columns = ["allocated in", "at requested\npeak", "share", "blocks"]
    columns += ["at reserved\npeak", "share"] if held else []
    rows = []
    for name in shown:
        owner = at_peak.get(name)
        row = [name, *_part(owner, peak), str(owner.blocks) if owner else NOTHING]
        rows.append(row + (_part(then.get(name), held) if held else []))
    sheet.table(columns, rows, keep_end=True)
    if len(shown) < len(names):
        sheet.line(f"{len(names) - len(shown)} smaller owners are left out; --all shows them.", "dim")


def _describe(kind: str, moment: Moment) -> str:
    where = f" in {moment.path}" if moment.path else ""
    size = moment.requested_bytes if kind == "requested" else moment.reserved_bytes
    return f"Peak of {kind} bytes: {mib(size)} MiB, first reached after {seconds(moment.at_ns)}{where}."


def _owner(owner: Owner) -> str:
    return owner.path if owner.path is not None else f"({owner.kind})"


def _bytes(owner: Owner | None) -> int:
    return owner.bytes if owner else 0


def _part(owner: Owner | None, moment: Moment) -> list[str]:
    if owner is None or not moment.requested_bytes:
        return [NOTHING, NOTHING]
    return [mib(owner.bytes), percent(owner.bytes / moment.requested_bytes)]


def _write_stages(sheet: Sheet, report: Report, on_gpu: bool, show_all: bool) -> None:
    """Peaks while a scope is open, of the rank where they are largest."""
    largest: dict[str, tuple] = {}
    for state in report.memory:
        for peak in state.scopes:
            if peak.path not in largest or peak.requested_bytes > largest[peak.path][0].requested_bytes:
                largest[peak.path] = peak, state.rank
    rows = []
    for row in report.scopes:
        if row.path in largest and (show_all or row.level == "stage"):
            peak, rank = largest[row.path]
            sizes = [peak.requested_bytes, peak.requested_rise_bytes, *([peak.reserved_bytes] if on_gpu else [])]
            rows.append(["  " * row.depth + row.name, *map(mib, sizes), rank_list([rank])])
    if rows:
        sheet.blank()
        sheet.line("Peaks inside " + ("scopes" if show_all else "stages") + ", largest of their occurrences", "bold")
        columns = ["scope", "requested\npeak", "above its\nbegin", *(["reserved\npeak"] if on_gpu else []), "on rank"]
        sheet.table(columns, rows)
