"""Report -> text for a terminal or a file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from wanhook.analysis.health import FileHealth
from wanhook.analysis.last_moments import LastCollective, LastMoments
from wanhook.analysis.ranks import NO_RANK
from wanhook.analysis.run_facts import Fact, RunFacts
from wanhook.report.build import Problem, Report
from wanhook.report.check_line import write_check
from wanhook.report.collective_section import group_title, write_collectives, write_kernel_bounds
from wanhook.report.exposure_section import write_exposure
from wanhook.report.kernel_section import write_kernels
from wanhook.report.load_section import write_loading
from wanhook.report.memory_section import write_memory
from wanhook.report.perturbation_lines import write_perturbations
from wanhook.report.scope_section import write_scopes
from wanhook.report.sheet import Sheet
from wanhook.report.text import mib, on_ranks, percent, ranks_named, seconds, span

SECTIONS = ("recording", "loading", "scopes", "collectives", "exposure", "memory", "notes", "findings")
MAX_ALIKE = 6  # problems of one kind that differ only in their figures
MAX_THREADS = 4
# What stands in the place of a section that was asked for by its name and has nothing to show.
_EMPTY = {
    "loading": ("LOADING", "no load was recorded"),
    "exposure": ("EXPOSED COMMUNICATION", "no collective has a time"),
    "notes": ("NOT RECORDED", "nothing was noted"),
    "findings": ("WHAT TO LOOK AT", "nothing stands out"),
}
_LOUD = {"crashed", "unknown", "out of memory", "disk full", "full", "failed", "dropped"}


def render(
    report: Report, *, width: int = 100, colour: bool = False, show_all: bool = False, sections: Sequence[str] = ()
) -> str:
    """The report as text of at most `width` columns; `show_all` leaves no row out. `sections`: those of SECTIONS that
    are wanted, memory with its details; none: all of them, of memory the first screen."""
    sheet = Sheet(width, colour)
    _write_title(sheet, report)
    for name in sections or SECTIONS:
        before = sheet.text()
        _write_section(sheet, report, name, show_all, bool(sections))
        if sections and name in _EMPTY and sheet.text() == before:
            sheet.heading(*_EMPTY[name])
    sheet.blank()
    sheet.line("docs/metrics.md defines every figure.", "dim", indent=0)
    return sheet.text()


def _write_section(sheet: Sheet, report: Report, name: str, show_all: bool, details: bool) -> None:
    if name == "recording":
        _write_health(sheet, report, show_all)
    elif name == "loading":
        write_loading(sheet, report, show_all)
    elif name == "scopes":
        write_scopes(sheet, report, show_all)
    elif name == "collectives":
        write_collectives(sheet, report)
        write_kernel_bounds(sheet, report)
        write_kernels(sheet, report)
    elif name == "exposure":
        write_exposure(sheet, report, show_all)
    elif name == "memory":
        write_memory(sheet, report, show_all, details)
    elif name == "notes":
        _write_notes(sheet, report.run)
    elif name == "findings" and report.look_at:
        sheet.heading("WHAT TO LOOK AT")
        for finding in report.look_at:
            sheet.line(finding.text)


def _write_title(sheet: Sheet, report: Report) -> None:
    run = report.run
    sheet.line(f"wanhook: {_what(report)}", "bold", indent=0)
    sheet.line(f"{_where(report)}, {seconds(run.lasted_ns)}{_when(run)}", indent=0)
    names = {"versions.torch": "torch", "versions.cuda": "CUDA", "versions.nccl": "NCCL", "versions.driver": "driver"}
    names |= {"wanhook.level": "level", "allocator.backend": "allocator", "allocator.settings": "allocator settings"}
    said = [f"{name} {value}" for key, name in names.items() if (value := _most(run.facts.get(key)))]
    if said:
        sheet.line(", ".join(said), "dim", indent=0)
    for group in run.groups:
        backend = f" ({group.backend})" if group.backend else ""
        sheet.line(f"group {group_title(group)}{backend}".replace("group group", "group"), "dim", indent=0)
    for name in run.differences:
        values = "; ".join(f"{fact.value or 'empty'} {on_ranks(fact.ranks)}" for fact in run.facts[name])
        sheet.line(f"Ranks differ in {name}: {values}", "yellow", indent=0)


def _what(report: Report) -> str:
    run = report.run
    name = f" ({run.name})" if run.name else ""
    only = f", {ranks_named([report.selected_rank])} alone" if report.selected_rank is not None else ""
    return f"run {run.run_id or 'without an id'}{name} in {report.path}{only}"


def _where(report: Report) -> str:
    run = report.run
    count = len(run.ranks)
    of = f" of {run.world_size}" if run.world_size and run.world_size != count else ""
    hosts = f" on {run.hosts[0].value}" if len(run.hosts) == 1 else f" on {len(run.hosts)} hosts"
    devices = run.facts.get("device.name") or run.facts.get("device.type") or []
    kinds = ", ".join(f"{len(fact.ranks)} x {fact.value}" for fact in devices)
    ranks = f"{count}{of} rank{'s' if max(count, run.world_size or 0) > 1 else ''}"
    if set(run.ranks) == {NO_RANK}:
        ranks = "1 process" if len(report.health) == 1 else "without ranks,"  # files of one process or of several
    return f"{ranks}{hosts}" + (f", {kinds}" if kinds else "")


def _when(run: RunFacts) -> str:
    if run.started_ns is None:
        return ""
    try:
        begun = datetime.fromtimestamp(run.started_ns / 1e9, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return ""
    return f" from {begun:%Y-%m-%d %H:%M:%S} UTC"


def _most(facts: list[Fact] | None) -> str:
    return facts[0].value if facts and facts[0].value != "not set" else ""


def _write_health(sheet: Sheet, report: Report, show_all: bool) -> None:
    sheet.heading("RECORDING")
    shown: dict[str, list[Problem]] = {}
    for problem in report.problems:
        shown.setdefault(problem.kind, []).append(problem)
    for kind, problems in shown.items():
        cut = problems if show_all else problems[:MAX_ALIKE]
        for problem in cut:
            where = "" if _says_itself(problem) else ranks_named(problem.ranks).capitalize() + ": "
            sheet.line(f"! {where}{problem.text}", "bold red" if kind in _LOUD else "yellow")
            if kind in ("crashed", "unknown"):
                _write_moments(sheet, [file for file in report.health if file.rank in problem.ranks])
        if len(cut) < len(problems):
            rest = ranks_named(rank for problem in problems[len(cut) :] for rank in problem.ranks)
            sheet.line(f"  The like holds for {rest}.")
    sheet.line(_reassurance(report))
    write_perturbations(sheet, report.perturbations, report.unchecked)
    write_check(sheet, report.memory)


def _says_itself(problem: Problem) -> bool:
    """Whom it is about: the run, or the process that had no rank, of which its sentence speaks."""
    return not problem.ranks or set(problem.ranks) == {NO_RANK}


def _write_moments(sheet: Sheet, files: list[FileHealth]) -> None:
    for file in files:
        for moments in [thread for thread in file.moments if thread.path or thread.collective][:MAX_THREADS]:
            where = f"thread {moments.thread}"
            where = where if file.rank == NO_RANK else f"{ranks_named([file.rank])}, {where}"
            sheet.line(f"{where}: {_doing(moments, file.wall_ns)}.", indent=6)


def _doing(moments: LastMoments, end_ns: int) -> str:
    parts = []
    if moments.path is not None and moments.path_begin_ns is not None:
        parts.append(f"in {moments.path}, open for {seconds(end_ns - moments.path_begin_ns)}")
    if moments.collective:
        parts.append(_last_call(moments.collective, end_ns))
    return "; ".join(parts)


def _last_call(call: LastCollective, end_ns: int) -> str:
    name = f"{call.op} {call.role}".strip() + (f" of {call.unit}" if call.unit else "")
    since = seconds(end_ns - call.begin_ns)
    return f"its last collective, {name} number {call.sequence} in {call.group}, began {since} before, {call.state}"


def _reassurance(report: Report) -> str:
    files = report.health
    clean = [file for file in files if file.ending == "clean" and not (file.dropped or file.unresolved or file.damaged)]
    ended = "ended cleanly, dropped nothing and left no GPU time unresolved"
    if len(clean) == len(files):
        parts = [f"{_files(len(files))} {ended}."]
    else:
        parts = [f"{len(clean)} of {_files(len(files))} {ended}."] if clean else []
    shares = [file.recorder_share for file in files if file.recorder_share is not None]
    if shares:
        parts.append(f"The recorder's own thread took {percent(max(shares), 2)} of one CPU at most.")
    sizes = sorted(file.bytes for file in files)
    size = mib(sizes[0]) if mib(sizes[0]) == mib(sizes[-1]) else f"{mib(sizes[0])} to {mib(sizes[-1])}"
    parts.append(f"{size} MiB and {span(file.records for file in files)} records a file.")
    return " ".join(parts)


def _files(count: int) -> str:
    return f"{count} recording{'s' if count > 1 else ''}"


def _write_notes(sheet: Sheet, run: RunFacts) -> None:
    if not run.notes:
        return
    sheet.heading("NOT RECORDED")
    for note in run.notes:
        where = "" if len(note.ranks) == len(run.ranks) else f" ({ranks_named(note.ranks)})"
        sheet.line(f"{note.value}{where}")
