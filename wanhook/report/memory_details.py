"""What is known of memory beyond the first screen: of the rank with the largest peak, and where ranks went short."""

from __future__ import annotations

from wanhook.analysis.device_use import Sampled
from wanhook.analysis.memory import DeviceMemory
from wanhook.analysis.memory_owners import Owner
from wanhook.analysis.out_of_memory import OutOfMemory, PostMortem
from wanhook.analysis.pins import Pins
from wanhook.report.build import Report
from wanhook.report.sheet import Sheet
from wanhook.report.text import NOTHING, mib, ms, on_ranks, percent, ranks_named, seconds, source_text

MAX_ROWS, MAX_FAILURES = 12, 4
_VERDICTS = {
    "fragmentation": "fragmentation: the free bytes would have been enough, but no piece was large enough",
    "streams": "free memory of other streams or pools would have been enough with the rest",
    "limit": "a limit: the device had room that torch may not take (set_per_process_memory_fraction)",
    "size": "size: it would not have fitted even if all free memory had been one piece",
}


def write_details(sheet: Sheet, report: Report, state: DeviceMemory, show_all: bool) -> None:
    """The tables of one rank's device; failed allocations, retries and leaks of all."""
    rows = None if show_all else MAX_ROWS
    for each in report.memory:
        _write_failures(sheet, each, rows)
    _write_base(sheet, state, rows)
    _write_fragmentation(sheet, state)
    for pins in state.pins:
        _write_pins(sheet, pins, rows)
    _write_churn(sheet, state, rows)
    _write_deferred(sheet, state, rows)
    _write_device(sheet, state)
    for each in report.memory:
        _write_retries(sheet, each)
        _write_leaks(sheet, each, rows)


def _title(sheet: Sheet, text: str) -> None:
    sheet.blank()
    sheet.line(text, "bold")


def _rest(sheet: Sheet, count: int, rows: int | None, what: str) -> None:
    if rows is not None and count > rows:
        sheet.line(f"{count - rows} smaller {what} are left out; --all shows them.", "dim")


def _write_owners(sheet: Sheet, title: str, owners: list[Owner], rows: int | None, on_gpu: bool = True) -> None:
    cells = []
    for one in owners[:rows]:
        sizes = [one.allocated_bytes, *([one.requested_bytes, one.pending_bytes] if on_gpu else [])]
        cells.append([source_text(one.source), *map(mib, sizes), str(one.blocks)])
    columns = [title, "allocated", *(["requested", "pending"] if on_gpu else []), "blocks"]
    sheet.table(columns, cells, keep_end=True)
    _rest(sheet, len(owners), rows, "owners")


def _write_base(sheet: Sheet, state: DeviceMemory, rows: int | None) -> None:
    if state.base is None:
        return
    base = state.base
    _title(sheet, f"Base of {ranks_named([state.rank])}: allocated when {base.begin_of} begins")
    sheet.line(f"{mib(base.moment.allocated_bytes)} MiB after {seconds(base.moment.at_ns)}.")
    _write_owners(sheet, "allocated in", base.owners, rows, state.reserved_peak is not None)


def _write_fragmentation(sheet: Sheet, state: DeviceMemory) -> None:
    found = state.fragmentation
    if found is None:
        return
    _title(sheet, f"Fragmentation {on_ranks([state.rank])}")
    moments = [("at the reserved peak", state.reserved_peak.moment, found.external_at_reserved_peak)]
    moments.append(("at the largest slack", found.largest_slack, found.external_at_largest_slack))
    if found.most_scattered:
        moments.append(("where external is largest", found.most_scattered, found.largest_external))
    cells = []
    for name, at, external in moments:
        sizes = [at.reserved_bytes, at.allocated_bytes, at.reserved_bytes - at.allocated_bytes, at.free_bytes]
        sizes += [at.largest_free_bytes, at.inactive_split_bytes]
        cells.append([name, seconds(at.at_ns), *map(mib, sizes), percent(external)])
    columns = ["moment", "after", "reserved", "allocated", "slack", "free", "largest\nfree", "inactive\nsplit"]
    sheet.table([*columns, "external"], cells)
    sheet.line(f"1 - peak active / peak reserved: {percent(found.unused_share)}.")


def _write_pins(sheet: Sheet, pins: Pins, rows: int | None) -> None:
    where = f" in {pins.path}" if pins.path else ""
    _title(sheet, f"Pins at the {' and the '.join(pins.when)}, after {seconds(pins.at_ns)}{where}")
    sheet.line(
        f"Mostly free segments: {pins.segments} with {mib(pins.segment_bytes)} MiB, of these {mib(pins.pinned_bytes)} "
        f"MiB free. Empty segments, only cached: {pins.empty_segments} with {mib(pins.empty_bytes)} MiB."
    )
    if pins.holders:
        columns = ["blocks allocated in", "blocks", "live", "segments", "pinned\nalone", "with\nothers"]
        cells = [
            [
                source_text(one.source),
                str(one.blocks),
                mib(one.live_bytes),
                str(one.segments),
                mib(one.alone_bytes),
                mib(one.shared_bytes),
            ]
            for one in pins.holders[:rows]
        ]
        sheet.table(columns, cells, keep_end=True)
        _rest(sheet, len(pins.holders), rows, "owners")


def _write_churn(sheet: Sheet, state: DeviceMemory, rows: int | None) -> None:
    if not state.churn:
        return
    _title(sheet, f"Segments that stages of {ranks_named([state.rank])} took from the device and gave back")
    cells = []
    for row in state.churn[:rows]:
        pairs = [(row.mallocs, row.malloc_bytes), (row.frees, row.free_bytes), (row.maps, row.map_bytes)]
        pairs.append((row.unmaps, row.unmap_bytes))
        cells.append(
            [row.path or "(outside stages)", *(text for pair in pairs for text in (str(pair[0]), mib(pair[1])))]
        )
    columns = ["stage, without those inside", "mallocs", "MiB", "frees", "MiB", "maps", "MiB", "unmaps", "MiB"]
    sheet.table(columns, cells, keep_end=True)
    _rest(sheet, len(state.churn), rows, "stages")


def _write_deferred(sheet: Sheet, state: DeviceMemory, rows: int | None) -> None:
    found = state.deferred
    if found is None:
        return
    _title(sheet, f"Deferred frees {on_ranks([state.rank])}")
    where = f" in {found.peak.path}" if found.peak.path else ""
    left = f"; {found.unfinished} still waited at the end" if found.unfinished else ""
    sheet.line(
        f"At most {mib(found.peak_bytes)} MiB waited, after {seconds(found.peak.at_ns)}{where}. {found.frees} frees of "
        f"{mib(found.bytes)} MiB together were deferred{left}."
    )
    if found.frees:
        waits = f"{ms(found.wait.p50_ns)}, {ms(found.wait.p95_ns)} and {ms(found.wait.max_ns)} ms"
        sheet.line(f"From a free until torch saw that it could be completed: p50, p95 and max {waits} of host time.")
    columns = ["blocks allocated in", "frees", "MiB", "mean wait\nms", "max wait\nms"]
    cells = [
        [source_text(one.source), str(one.frees), mib(one.bytes), ms(one.wait_mean_ns), ms(one.wait_max_ns)]
        for one in found.sources[:rows]
    ]
    if cells:
        sheet.table(columns, cells, keep_end=True)
        _rest(sheet, len(found.sources), rows, "owners")


def _write_device(sheet: Sheet, state: DeviceMemory) -> None:
    found = state.device_use
    if found is None:
        return
    _title(sheet, f"Device of {ranks_named([state.rank])}, at {found.samples} stage edges")
    sheet.line(
        f"Used by all processes: {mib(found.used.bytes)} of {mib(found.total_bytes)} MiB at most {_edge(found.used)}."
    )
    most, least = found.outside_most, found.outside_least
    sheet.line(f"Outside torch's reserved memory: {mib(most.bytes)} MiB at most {_edge(most)},")
    sheet.line(f"{mib(least.bytes)} MiB at least {_edge(least)}.")


def _edge(sample: Sampled) -> str:
    where = f"at the {sample.edge} of {sample.path}" if sample.path else f"({sample.edge})"
    return f"{where}, after {seconds(sample.at_ns)}"


def _write_retries(sheet: Sheet, state: DeviceMemory) -> None:
    found = state.retries
    if found is None or not (found.retries or found.ooms):
        return
    _title(sheet, f"Short of memory {on_ranks([state.rank])}")
    stages = ", ".join(f"{path or 'outside stages'} {count}" for path, count in found.by_path.items()) or NOTHING
    said = f"Allocations that gave the cache back to the device and tried again: {found.retries}; failed: {found.ooms}."
    sheet.line(f"{said} Retries by stage: {stages}.")


def _write_leaks(sheet: Sheet, state: DeviceMemory, rows: int | None) -> None:
    for leak in state.leaks:
        _title(sheet, f"Growth from one {leak.path} of {ranks_named([state.rank])} to the next")
        sheet.line(
            f"{mib(leak.growth_bytes)} MiB each (median), {mib(leak.total_bytes)} MiB from the first to the last of "
            f"{leak.occurrences}. What the later ones allocated and still stands at the end:"
        )
        _write_owners(sheet, "allocated in", leak.owners, rows, state.reserved_peak is not None)


def _write_failures(sheet: Sheet, state: DeviceMemory, rows: int | None) -> None:
    dead = [failed for failed in state.out_of_memory if failed.post_mortem]
    for failed in dead if rows is None else dead[:MAX_FAILURES]:
        _write_failure(sheet, state.rank, failed, failed.post_mortem, rows)
    left = len(state.out_of_memory) - (len(dead) if rows is None else min(len(dead), MAX_FAILURES))
    if left:
        sheet.line(f"{left} more failed allocations of {ranks_named([state.rank])}.", "dim")


def _write_failure(sheet: Sheet, rank: int, failed: OutOfMemory, dead: PostMortem, rows: int | None) -> None:
    where = f" in {failed.path}" if failed.path else ""
    _title(sheet, f"Out of memory {on_ranks([rank])} after {seconds(failed.at_ns)}{where}")
    sheet.line(f"Cause: {_VERDICTS[dead.verdict]}.")
    sheet.line(
        f"Asked for {mib(failed.requested_bytes)} MiB. Free on the device: {mib(failed.device_free_bytes)} MiB. "
        f"Free in the cache: {mib(dead.cache.bytes)} MiB in {dead.cache.pieces} pieces, the largest "
        f"{mib(dead.cache.largest_bytes)} MiB; of its own stream and pool {mib(dead.usable.bytes)} MiB in "
        f"{dead.usable.pieces}, the largest {mib(dead.usable.largest_bytes)} MiB."
    )
    _write_owners(sheet, "the rest was held by", dead.owners, rows)
