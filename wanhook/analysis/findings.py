"""What to look at first: a few sentences, each with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wanhook.analysis.collective_shares import ALL, OWN, CollectiveShare, collective_shares
from wanhook.analysis.exposed_table import ExposedRow, Exposure
from wanhook.analysis.finding import Finding
from wanhook.analysis.loading import is_component
from wanhook.analysis.memory import DeviceMemory
from wanhook.analysis.memory_findings import memory_findings
from wanhook.analysis.ranks import RANKS_DIFFER, largest, mean_total, rank_of
from wanhook.analysis.scopes import ScopeRow, innermost_paths

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

_STEP = "denoise_step"  # as Wan's integration and the demo name it
_WHOLE = ("stopped", "exited")
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
    ranks = [_largest_rank(traces, scopes), _on_some_ranks(traces, scopes)]
    exposed = _exposed(exposure) if exposure else []
    found = [*_largest_stages(scopes), _warm_up(step), *_filled(step, shares), *exposed, *ranks]
    expandable = any("expandable_segments:True" in str(settings) for settings in map(_allocator_settings, traces))
    return [finding for finding in found if finding] + memory_findings(memory, scopes, expandable)


def _allocator_settings(trace: Trace) -> object:
    allocator = trace.meta.get("allocator")
    return allocator.get("settings") if isinstance(allocator, dict) else None


def repeated_stage(scopes: list[ScopeRow]) -> ScopeRow | None:
    """The stage that recurs in a process and takes the most time: the denoising step of a request.

    One that is named so goes before others: two requests recur as well, and where a rank died in a step, what the step
    holds has ended more often than the step. What is part of a load is none: two experts are loaded, for minutes."""
    stages = [row for row in scopes if row.level == "stage" and row.type == "trace" and not _loads(row)]
    steps = [row for row in stages if row.name == _STEP and row.ranks and max(row.occurrences.values()) > 1]
    recurring = [row for row in stages if row.time.mean_ns is not None]
    return max(steps or recurring, key=_total, default=None)


def _loads(row: ScopeRow) -> bool:
    return any(map(is_component, row.path.split("/")))


def _total(row: ScopeRow) -> float:
    return mean_total(row.ranks) or 0.0


def _largest_stages(scopes: list[ScopeRow]) -> list[Finding]:
    """Of the outermost stage with the most time, and if that is a load, of the largest that is none."""
    stages = [row for row in scopes if row.level == "stage"]
    outermost = sorted((row for row in stages if row.depth == 0 and _total(row)), key=_total, reverse=True)
    work = next((row for row in outermost if not _loads(row)), None)
    roots = [row for row in outermost if row is outermost[0] or row is work]
    return [finding for root in roots if (finding := _largest_inside(root, stages))]


def _largest_inside(root: ScopeRow, stages: list[ScopeRow]) -> Finding | None:
    inside = [(row, *_on_its_ranks(row, root)) for row in stages if row.path.startswith(root.path + "/")]
    inside = [(row, total, whole) for row, total, whole in inside if whole]
    if not inside:
        return None
    # Of nested stages that each hold most of the time, the innermost says the most.
    most = max((row.depth for row, total, whole in inside if total >= whole / 2), default=None)
    chosen = [part for part in inside if most is None or (part[0].depth == most and part[1] >= part[2] / 2)]
    top, total, whole = max(chosen, key=lambda part: part[1] / part[2])
    text = f"{top.path} takes {total / whole:.1%} of {root.path}: {total / 1e6:.1f} of {whole / 1e6:.1f} ms."
    return Finding("stage", text, {"path": top.path, "total_ns": total, "root": root.path, "root_total_ns": whole})


def _on_its_ranks(row: ScopeRow, root: ScopeRow) -> tuple[float, float]:
    """Mean totals (ns) of a stage and of the outermost one around it, over the ranks that have the stage: a decode on
    rank 0 is no part of what the others do."""
    around = {share.rank: share.total_ns for share in root.ranks}
    own = [share for share in row.ranks if share.rank in around]
    count = max(len(own), 1)
    return sum(share.total_ns for share in own) / count, sum(around[share.rank] for share in own) / count


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


def _on_some_ranks(traces: Sequence[Trace], scopes: list[ScopeRow]) -> Finding | None:
    """The largest stage that some ranks do not have: what they wait for, or could help with. Nothing where a rank's
    recording or its outermost stage ended early: what it would have had is not known."""
    ranks = {rank_of(trace) for trace in traces}
    if len(ranks) < 2 or any(trace.health.state not in _WHOLE for trace in traces):
        return None
    roots = [row for row in scopes if row.depth == 0 and set(row.occurrences) == ranks and not row.failed + row.open]
    inside = [(row, root) for root in roots for row in scopes if row.path.startswith(root.path + "/")]
    some = [(row, root) for row, root in inside if row.level == "stage" and set(row.occurrences) < ranks]
    row, root = max(some, key=lambda found: _total(found[0]), default=(None, None))
    if row is None or _total(row) < _SHARE * _total(root):
        return None
    had, total, whole = sorted(row.occurrences), _total(row), _total(root)
    where = f"rank {had[0]} alone" if len(had) == 1 else f"{len(had)} of {len(ranks)} ranks"
    text = f"{row.path} runs on {where}: {total / 1e6:.1f} ms, {total / whole:.1%} of {root.path}."
    figures = {"path": row.path, "ranks": len(had), "of": len(ranks), "total_ns": total, "root_total_ns": whole}
    return Finding("some ranks", text, figures)


def _mostly_waits(traces: Sequence[Trace], row: ScopeRow) -> bool:
    shares = collective_shares(traces, row.path)
    return any(part.where == OWN and part.name == ALL and part.share > 0.5 for part in shares)
