"""What to look at first: a few sentences, each with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wanhook.analysis.collective_shares import ALL, OWN, CollectiveShare, collective_shares
from wanhook.analysis.exposed_table import ExposedRow, Exposure
from wanhook.analysis.finding import Finding
from wanhook.analysis.memory import DeviceMemory
from wanhook.analysis.memory_findings import memory_findings
from wanhook.analysis.ranks import RANKS_DIFFER, largest, mean_total
from wanhook.analysis.scopes import ScopeRow, innermost_paths

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

# What is below these is not worth a sentence: share of a stage, first occurrence by mean.
_SHARE, _WARM_UP = 0.01, 1.5
_TRY_FSDP = (
    "To try: fetch the next unit during this one's compute (FSDP1: forward_prefetch=True, limit_all_gathers=False; "
    "FSDP2: set_modules_to_forward_prefetch), wrap bigger units, or keep units gathered where memory allows (FSDP1: "
    "SHARD_GRAD_OP; FSDP2: reshard_after_forward=False)."
)


def look_at(
    traces: Sequence[Trace], scopes: list[ScopeRow], memory: list[DeviceMemory], exposure: Exposure | None = None
) -> list[Finding]:
    """Findings in the order of the questions that users ask: where the time goes, communication, ranks, memory."""
    step = repeated_stage(scopes)
    shares = collective_shares(traces, step.path) if step else []
    rank = _largest_rank(traces, scopes)
    exposed = _exposed(exposure) if exposure else []
    found = [_largest_stage(scopes), _warm_up(step), *_filled(step, shares), *exposed, rank]
    expandable = any("expandable_segments:True" in str(settings) for settings in map(_allocator_settings, traces))
    return [finding for finding in found if finding] + memory_findings(memory, scopes, expandable)


def _allocator_settings(trace: Trace) -> object:
    allocator = trace.meta.get("allocator")
    return allocator.get("settings") if isinstance(allocator, dict) else None


def repeated_stage(scopes: list[ScopeRow]) -> ScopeRow | None:
    """The stage that recurs on a rank and takes the most time: the denoising step of a request."""
    stages = [row for row in scopes if row.level == "stage" and row.type == "trace"]
    recurring = [row for row in stages if row.ranks and max(row.occurrences.values()) > 1]
    return max(recurring, key=_total, default=None)


def _total(row: ScopeRow) -> float:
    return mean_total(row.ranks) or 0.0


def _largest_stage(scopes: list[ScopeRow]) -> Finding | None:
    stages = [row for row in scopes if row.level == "stage"]
    root = max((row for row in stages if row.depth == 0), key=_total, default=None)
    if root is None or not _total(root):
        return None
    inside = [row for row in stages if row.path.startswith(root.path + "/")]
    # Of nested stages that each hold most of the time, the innermost says the most.
    most = [row for row in inside if _total(row) >= _total(root) / 2]
    top = most[-1] if most else max(inside, key=_total, default=None)
    if top is None:
        return None
    total, whole = _total(top), _total(root)
    text = f"{top.path} takes {total / whole:.1%} of {root.path}: {total / 1e6:.1f} of {whole / 1e6:.1f} ms."
    return Finding("stage", text, {"path": top.path, "total_ns": total, "root": root.path, "root_total_ns": whole})


def _warm_up(step: ScopeRow | None) -> Finding | None:
    if step is None or not step.time.first_ns or not step.time.mean_ns:
        return None
    first, mean = step.time.first_ns, step.time.mean_ns
    if first < _WARM_UP * mean:
        return None
    others = f"{first / mean:.1f} times the mean of the others, {mean / 1e6:.1f} ms"
    text = f"The first {step.path} takes {first / 1e6:.1f} ms: {others}."
    return Finding("warm-up", text, {"path": step.path, "first_ns": first, "mean_ns": mean})


def _filled(step: ScopeRow | None, shares: list[CollectiveShare]) -> list[Finding]:
    found = []
    for whole in (part for part in shares if part.name == ALL and part.share >= _SHARE):
        parts = [part for part in shares if part.where == whole.where and part.name != ALL and part.share >= _SHARE]
        where = "on its own stream" if whole.where == OWN else "on other streams, beside its own work"
        listed = ", ".join(f"{part.name} {part.share:.1%}" for part in parts)
        text = f"Collectives fill {whole.share:.1%} of {step.path} {where}" + (f": {listed}." if listed else ".")
        figures = {"path": step.path, "where": whole.where, "share": whole.share}
        found.append(Finding("collectives", text, figures | {f"share of {part.name}": part.share for part in parts}))
    return found


def _exposed(exposure: Exposure) -> list[Finding]:
    """What the step waits for although it runs beside it. Of collectives on the compute stream _filled speaks."""
    side = [row for row in exposure.rows if row.compute_stream < row.timed]
    found = [row for row in side if row.step_share is not None and row.step_share >= _SHARE and row.step_total_ns]
    return [_of_exposed(exposure, row) for row in sorted(found, key=lambda row: -row.step_share)]


def _of_exposed(exposure: Exposure, row: ExposedRow) -> Finding:
    part = row.step_exposed_ns / row.step_total_ns
    text = (
        f"{row.step_share:.1%} of {exposure.step} is exposed {row.name}: {row.step_exposed_ns / 1e6:.1f} of "
        f"{exposure.step_ns / 1e6:.1f} ms, {part:.0%} of the time that it takes."
    )
    if row.role == "fsdp" and row.op == "all_gather":
        text += " " + _TRY_FSDP
    figures = {"path": exposure.step, "op": row.op, "role": row.role, "share": row.step_share}
    figures |= {"exposed_ns": row.step_exposed_ns, "total_ns": row.step_total_ns, "step_ns": exposure.step_ns}
    return Finding("exposed", text, figures)


def _largest_rank(traces: Sequence[Trace], scopes: list[ScopeRow]) -> Finding | None:
    """The stage in which one rank's total lies the most time above the mean over the ranks. Only stages without others
    inside: what holds a stage that not every rank has (a decode on rank 0) differs for that reason alone. And not what
    is mostly a collective: the rank that spends more time there is the one that waits."""
    stages = [row for row in scopes if row.level == "stage"]
    innermost = innermost_paths(row.path for row in stages)
    leaves = [row for row in stages if row.path in innermost]
    late = [(row, *top) for row in leaves if (top := largest(row.ranks)) and top[1] > RANKS_DIFFER]
    late = sorted(late, key=lambda top: -top[2] * _total(top[0]))
    found = next((top for top in late if not _mostly_waits(traces, top[0])), None)
    if found is None:
        return None
    row, rank, share = found
    above = share * _total(row)
    text = f"Rank {rank} spends {share:.1%} more time in {row.path} than the mean of the ranks: {above / 1e6:.1f} ms."
    return Finding("ranks", text, {"path": row.path, "rank": rank, "share": share, "above_ns": above})


def _mostly_waits(traces: Sequence[Trace], row: ScopeRow) -> bool:
    shares = collective_shares(traces, row.path)
    return any(part.where == OWN and part.name == ALL and part.share > 0.5 for part in shares)
