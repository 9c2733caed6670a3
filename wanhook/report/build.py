"""Run -> Report: one tree of dataclasses that every renderer starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanhook.analysis.collectives import CollectiveRow, collective_table
from wanhook.analysis.device_remarks import DeviceRemark, device_remarks
from wanhook.analysis.device_state import DeviceState, device_states
from wanhook.analysis.exposed_table import Exposure, exposure
from wanhook.analysis.finding import Finding
from wanhook.analysis.findings import look_at, repeated_stage
from wanhook.analysis.health import FileHealth, file_health
from wanhook.analysis.kernel_windows import KernelWindow, kernel_windows
from wanhook.analysis.load_waits import LoadWait, load_waits
from wanhook.analysis.loading import LoadRow, load_table
from wanhook.analysis.memory import DeviceMemory, memory_of
from wanhook.analysis.overlaps import Overlap, overlaps
from wanhook.analysis.perturbation import Perturbation, Unchecked, perturbations, unchecked
from wanhook.analysis.run_facts import RunFacts, file_name, run_facts
from wanhook.analysis.scopes import ScopeRow, scope_table
from wanhook.analysis.waits import WaitRow, wait_table

if TYPE_CHECKING:
    from wanhook.tracefile.model import Run

SCHEMA = "wanhook.report/2"
MIB = 1 << 20


@dataclass(frozen=True)
class Problem:
    """One sentence that belongs at the top, and the ranks that it holds for; no ranks: for the run."""

    kind: str
    text: str
    ranks: list[int]


@dataclass(frozen=True)
class Report:
    """Everything a report says. `schema` names the shape of this tree; a field that changes its meaning or goes away
    raises its number. Times are ns, sizes bytes, rates bytes a second, shares 0 to 1; rank -1 is a process that had
    none. `selected_rank` is the one rank that health, tables and findings are about, None for all."""

    schema: str
    path: str
    selected_rank: int | None
    run: RunFacts
    problems: list[Problem]
    health: list[FileHealth]
    devices: list[DeviceState]
    perturbations: list[Perturbation]
    unchecked: list[Unchecked]
    loading: list[LoadRow]
    load_waits: list[LoadWait]
    scopes: list[ScopeRow]
    collectives: list[CollectiveRow]
    kernel_windows: list[KernelWindow]
    exposure: Exposure
    waits: list[WaitRow]
    overlaps: list[Overlap]
    memory: list[DeviceMemory]
    look_at: list[Finding]


def build(run: Run, rank: int | None = None) -> Report:
    """The report of a run, or of one of its ranks. KeyError when that rank left no trace."""
    traces = [trace for trace in run.traces if rank is None or trace.rank == rank]
    if rank is not None and not traces:
        raise KeyError(rank)
    facts = run_facts(run)
    scopes, memory, health = scope_table(traces), memory_of(traces), file_health(traces)
    step = repeated_stage(scopes)
    exposed = exposure(traces, step.path if step else None)
    devices = device_states(traces)
    return Report(
        schema=SCHEMA,
        path=file_name(run.path),
        selected_rank=rank,
        run=facts,
        problems=_problems(facts, health, memory, device_remarks(traces, devices)),
        health=health,
        devices=devices,
        perturbations=perturbations(traces),
        unchecked=unchecked(traces),
        loading=load_table(traces),
        load_waits=load_waits(traces),
        scopes=scopes,
        collectives=collective_table(traces),
        kernel_windows=kernel_windows(traces),
        exposure=exposed,
        waits=wait_table(traces),
        overlaps=overlaps(traces),
        memory=memory,
        look_at=look_at(traces, scopes, memory, exposed),
    )


def _problems(
    facts: RunFacts, health: list[FileHealth], memory: list[DeviceMemory], remarks: list[DeviceRemark]
) -> list[Problem]:
    """What went wrong, by kind in the order in which it matters; ranks of which the same is true share a sentence."""
    ranks: dict[tuple[str, str], list[int]] = {("run", text): [] for text in facts.problems}
    for file in health:
        for problem in file.problems:
            ranks.setdefault((problem.kind, problem.text), []).append(file.rank)
    for state in memory:
        for failed in state.out_of_memory:
            where = f" in {failed.path}" if failed.path else ""
            asked, free = failed.requested_bytes / MIB, failed.device_free_bytes / MIB
            when = f"after {failed.at_ns / 1e9:.3f} s"
            text = f"Out of memory{where} {when}: {asked:.1f} MiB asked for, {free:.1f} MiB free on the device."
            ranks.setdefault(("out of memory", text), []).append(state.rank)
    for remark in remarks:
        ranks.setdefault((remark.kind, remark.text), []).extend(remark.ranks)
    kinds = ["crashed", "unknown", "out of memory", "disk full", "full", "failed", "dropped", "run"]
    order = {kind: place for place, kind in enumerate(kinds)}
    found = [Problem(kind, text, sorted(set(where))) for (kind, text), where in ranks.items()]
    return sorted(found, key=lambda problem: order.get(problem.kind, len(order)))
