"""What to look at in memory: for each rule the rank on which it weighs most, the figures, and what to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wanhook.analysis.finding import Finding
from wanhook.analysis.ranks import named, on
from wanhook.analysis.scopes import innermost_paths

if TYPE_CHECKING:
    from wanhook.analysis.memory import DeviceMemory
    from wanhook.analysis.memory_by_scope import ScopeMemory
    from wanhook.analysis.memory_owners import Source
    from wanhook.analysis.out_of_memory import OutOfMemory, PostMortem
    from wanhook.analysis.scopes import ScopeRow

MIB = 1 << 20
# What is below these shares of the peak is not worth a sentence; external fragmentation counts from a half on.
_OF_RESERVED, _OF_ALLOCATED, _SCATTERED = 0.05, 0.25, 0.5
_CONF = "PYTORCH_CUDA_ALLOC_CONF"
# Without the fraction torch reads the threshold and never collects (`set_fraction` in CUDACachingAllocator.cpp).
_COLLECTING = (
    f"{_CONF}=garbage_collection_threshold:0.8, which torch heeds where torch.cuda.set_per_process_memory_fraction() "
    "was called,"
)


def memory_findings(memory: list[DeviceMemory], scopes: list[ScopeRow], expandable: bool) -> list[Finding]:
    """In the order of their weight. `expandable`: the run used expandable segments already."""
    rules: list[Callable[[], Iterator[Finding]]] = [
        lambda: _out_of_memory(memory, expandable),
        lambda: _retries(memory, expandable),
        lambda: _leak(memory),
        lambda: _slack(memory),
        lambda: _fragmentation(memory, expandable),
        lambda: _pin(memory),
        lambda: _deferred(memory),
        lambda: _activation(memory, scopes),
    ]
    return [finding for rule in rules for finding in rule()]


def mib(size: float) -> str:
    return f"{size / MIB:.1f}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


def source_name(source: Source) -> str:
    """A source as a sentence has it."""
    return source.path if source.path is not None else f"({source.kind})"


def _less_scattered(expandable: bool) -> str:
    less = f"{_CONF}=max_split_size_mb:256 keeps large blocks whole"
    return less if expandable else f"Try {_CONF}=expandable_segments:True; without it, {less}"


def _out_of_memory(memory: list[DeviceMemory], expandable: bool) -> Iterator[Finding]:
    found = [(state, failed) for state in memory for failed in state.out_of_memory if failed.post_mortem]
    if not found:
        return
    state, failed = found[0]
    dead = failed.post_mortem
    where = f" in {failed.path}" if failed.path else ""
    text = (
        f"Out of memory {on(state.rank)}{where}: {mib(failed.requested_bytes)} MiB asked for; "
        f"{_why(failed, dead)} {_remedy(dead, expandable)}"
    )
    figures = {"rank": state.rank, "requested_bytes": failed.requested_bytes, "verdict": dead.verdict}
    figures |= {"device_free_bytes": failed.device_free_bytes, "cache_free_bytes": dead.cache.bytes}
    figures |= {"pieces": dead.cache.pieces, "largest_piece_bytes": dead.cache.largest_bytes}
    yield Finding("out of memory", text, figures)


def _why(failed: OutOfMemory, dead: PostMortem) -> str:
    free = (
        f"{mib(dead.cache.bytes)} MiB lay free in the cache in {dead.cache.pieces} pieces, the largest "
        f"{mib(dead.cache.largest_bytes)} MiB, and {mib(failed.device_free_bytes)} MiB on the device."
    )
    causes = {
        "fragmentation": "The cause is fragmentation: together that is enough, no piece is.",
        "streams": "Together that is enough, but part of it belongs to other streams or pools.",
        "limit": "The device had room: torch was not allowed to take it (set_per_process_memory_fraction).",
        "size": "The cause is size: all of that together is not enough.",
    }
    return f"{free} {causes[dead.verdict]}"


def _remedy(dead: PostMortem, expandable: bool) -> str:
    if dead.verdict == "fragmentation":
        return f"{_less_scattered(expandable)}."
    if dead.verdict == "streams":
        return "Fewer record_stream and side-stream allocations, or torch.cuda.empty_cache() before it."
    top = next(iter(dead.owners), None)
    held = f" {source_name(top.source)} holds the most: {mib(top.allocated_bytes)} MiB." if top else ""
    return f"Less has to be live then.{held}"


def _retries(memory: list[DeviceMemory], expandable: bool) -> Iterator[Finding]:
    state = max((state for state in memory if state.retries), key=lambda state: state.retries.retries, default=None)
    if state is None or not state.retries.retries:
        return
    places = sorted(state.retries.by_path.items(), key=lambda place: -place[1])
    where = f", {places[0][1]} of them in {places[0][0]}" if places and places[0][0] else ""
    text = (
        f"{_counted(state.retries.retries, 'allocation')} {on(state.rank)} found no memory, gave the cache back to "
        f"the device and tried again{where}: each stops the GPU. {_less_scattered(expandable)}; or "
        f"{_COLLECTING} gives memory back before it is short."
    )
    yield Finding("retries", text, {"rank": state.rank, "retries": state.retries.retries})


def _leak(memory: list[DeviceMemory]) -> Iterator[Finding]:
    found = [(leak, state.rank) for state in memory for leak in state.leaks[:1]]
    if not found:
        return
    leak, rank = max(found, key=lambda each: each[0].total_bytes)
    owner = next(iter(leak.owners), None)
    stays = (
        f" What stays was allocated in {source_name(owner.source)} ({_counted(owner.blocks, 'block')})."
        if owner
        else ""
    )
    text = (
        f"Each {leak.path} of {named(rank)} leaves {mib(leak.growth_bytes)} MiB more allocated (median), "
        f"{mib(leak.total_bytes)} MiB from the first to the last of {leak.occurrences}.{stays}"
    )
    figures = {"path": leak.path, "rank": rank, "growth_bytes": leak.growth_bytes, "total_bytes": leak.total_bytes}
    yield Finding("leak", text, figures | ({"owner": source_name(owner.source)} if owner else {}))


def _slack(memory: list[DeviceMemory]) -> Iterator[Finding]:
    peaks = [(state.reserved_peak.moment, state) for state in memory if state.reserved_peak]
    if not peaks:
        return
    moment, state = max(peaks, key=lambda found: found[0].reserved_bytes - found[0].allocated_bytes)
    slack, reserved = moment.reserved_bytes - moment.allocated_bytes, moment.reserved_bytes
    if not reserved or slack < _OF_RESERVED * reserved:
        return
    where = f", in {moment.path}" if moment.path else ""
    pending = moment.active_bytes - moment.allocated_bytes
    waiting = f", and {mib(pending)} MiB freed but waiting for another stream" if pending else ""
    text = (
        f"At the reserved peak of {named(state.rank)}{where}, {mib(slack)} of {mib(reserved)} MiB "
        f"({slack / reserved:.1%}) were reserved but not allocated: {mib(moment.free_bytes)} MiB free in the cache, "
        f"the largest piece {mib(moment.largest_free_bytes)} MiB{waiting}. torch.cuda.empty_cache() before that stage, "
        f"or {_COLLECTING} gives back what lies unused."
    )
    yield Finding("slack", text, {"rank": state.rank, "slack_bytes": slack, "reserved_bytes": reserved})


def _fragmentation(memory: list[DeviceMemory], expandable: bool) -> Iterator[Finding]:
    def scattered(state: DeviceMemory) -> int:
        moment = state.fragmentation.largest_slack
        return moment.free_bytes - moment.largest_free_bytes

    state = max((state for state in memory if state.fragmentation), key=scattered, default=None)
    if state is None:
        return
    share, moment = state.fragmentation.external_at_largest_slack, state.fragmentation.largest_slack
    if (share or 0) < _SCATTERED or scattered(state) < _OF_RESERVED * state.reserved_peak.moment.reserved_bytes:
        return
    where = f", in {moment.path}," if moment.path else ""
    text = (
        f"Free memory of {named(state.rank)} is scattered: at its largest slack{where} {mib(moment.free_bytes)} MiB "
        f"were free and the largest piece was {mib(moment.largest_free_bytes)} MiB (external fragmentation "
        f"{share:.1%}). {_less_scattered(expandable)}."
    )
    figures = {"rank": state.rank, "free_bytes": moment.free_bytes, "largest_free_bytes": moment.largest_free_bytes}
    yield Finding("fragmentation", text, figures | {"external_share": share})


def _pin(memory: list[DeviceMemory]) -> Iterator[Finding]:
    found = [(pins.holders[0], pins, state) for state in memory for pins in state.pins if pins.holders]
    if not found:
        return
    holder, pins, state = max(found, key=lambda each: each[0].alone_bytes)
    if not holder.alone_bytes or holder.alone_bytes < _OF_RESERVED * state.reserved_peak.moment.reserved_bytes:
        return
    name = source_name(holder.source)
    text = (
        f"{name} pins {mib(holder.alone_bytes)} MiB {on(state.rank)} ({', '.join(pins.when)}): its "
        f"{mib(holder.live_bytes)} MiB in {_counted(holder.blocks, 'block')} keep "
        f"{_counted(holder.segments, 'mostly free segment')} reserved. "
        "Allocate what outlives a stage before its temporaries, or try "
        f"{_CONF}=expandable_segments:True."
    )
    figures = {"rank": state.rank, "scope": name, "pinned_bytes": holder.alone_bytes, "live_bytes": holder.live_bytes}
    yield Finding("pin", text, figures | {"segments": holder.segments, "when": ", ".join(pins.when)})


def _deferred(memory: list[DeviceMemory]) -> Iterator[Finding]:
    state = max((state for state in memory if state.deferred), key=lambda each: each.deferred.peak_bytes, default=None)
    if state is None or not state.reserved_peak:
        return
    waiting, top = state.deferred, next(iter(state.deferred.sources), None)
    if waiting.peak_bytes < _OF_RESERVED * state.reserved_peak.moment.reserved_bytes:
        return
    most = f" Most of it was allocated in {source_name(top.source)}." if top and 2 * top.bytes > waiting.bytes else ""
    text = (
        f"Up to {mib(waiting.peak_bytes)} MiB of {named(state.rank)} were freed and could not be used again, because "
        f"another stream still held them (record_stream).{most} FSDP1's limit_all_gathers=True, its default, bounds "
        "how far it runs ahead; FSDP2 does without record_stream."
    )
    yield Finding("deferred frees", text, {"rank": state.rank, "peak_bytes": waiting.peak_bytes})


def _activation(memory: list[DeviceMemory], scopes: list[ScopeRow]) -> Iterator[Finding]:
    """The innermost stage with the most temporaries: of nested stages the inner says more, and what a stage keeps (a
    load its weights) is growth."""
    leaves = innermost_paths(row.path for row in scopes if row.level == "stage" and row.type == "trace")
    found = [(_temporary(row), row, state) for state in memory for row in state.scopes if row.path in leaves]
    if not found:
        return
    most, row, state = max(found, key=lambda each: each[0])
    peak = state.allocated_peak.moment.allocated_bytes
    if most <= 0 or most < _OF_ALLOCATED * peak:
        return
    text = (
        f"{row.path} of {named(state.rank)} takes {mib(most)} MiB for a while, {most / peak:.1%} of the peak of "
        f"{mib(peak)} MiB. Smaller tiles, chunks or batches lower it; weights that it does not need can go first."
    )
    figures = {"path": row.path, "rank": state.rank, "temporary_bytes": most, "allocated_peak_bytes": peak}
    yield Finding("activation", text, figures)


def _temporary(row: ScopeMemory) -> int:
    return row.activation.max_bytes - max(row.growth.max_bytes, 0)
