"""What recording cost, as sentences of the health part."""

from __future__ import annotations

from wanhook.analysis.paired_change import FEWEST, Change
from wanhook.analysis.perturbation import PROMISED, Perturbation, Unchecked
from wanhook.report.build import Report
from wanhook.report.sheet import Sheet
from wanhook.report.text import ms, percent

WORTH_A_WORD = 0.0001  # of a step, what the check itself adds
_CLOCKS = {"gpu": "GPU time", "host": "host time"}


def write_perturbations(sheet: Sheet, found: list[Perturbation], unchecked: list[Unchecked]) -> None:
    for none in unchecked:
        sheet.line(_none_checked(none), "yellow")
    for each in found:
        sheet.line(_cost(each), "yellow" if each.found else "")
        sheet.line(_overlap(each))
        sheet.line(
            f"Nothing was recorded inside {each.muted} of {each.steps} {each.path}: counts, sums and memory figures "
            "lack what happened there."
        )


def _cost(each: Perturbation) -> str:
    if each.time is None:
        return f"Recording cost of {each.path}: unknown, {each.pairs} pairs of steps are too few; {FEWEST} will do."
    clock = _CLOCKS[each.clock]
    line = f"Recording cost {signed(each.time)} of the {clock} of {each.path}, over {each.pairs} pairs of steps"
    line += f": more than the {100 * PROMISED:.1f} % that it may." if each.found else "."
    own = each.check_share_at_most or 0
    return line + (f" Of it up to {100 * own:.2f} % can be the check's own." if own >= WORTH_A_WORD else "")


def _overlap(each: Perturbation) -> str:
    """Muted steps have no spans, so a bound is the answer."""
    if each.time is None:
        return f"Whether recording changed the overlap in {each.path}: unknown, for the same reason."
    if each.lost_share_at_most is None:
        return f"Overlap in {each.path}: none to change, no collective ran beside other work."
    return (
        f"Overlap in {each.path}: recording took no more than {percent(each.lost_share_at_most)} of the "
        f"{ms(each.beside_ns)} ms a step that collectives run beside other work."
    )


def _none_checked(none: Unchecked) -> str:
    why = "no scope of that name was recorded"
    if none.occurrences:
        why = f"none of its {none.occurrences} occurrences could be a step: one with which a recording begins is none, "
        why += "nor is one inside another step or a CUDA graph"
    remedy = "Put verify on a scope that repeats inside the recording, such as denoise_step"
    return f"! verify was asked for {none.scope} and checked nothing: {why}. {remedy}."


def recorded_steps(report: Report) -> str:
    """What the heading of a table adds where half of the steps are missing from its counts and sums."""
    parts = [f"{each.steps - each.muted} of {each.steps} {each.path}" for each in report.perturbations if each.muted]
    return f"; recorded inside {', '.join(parts)}" if parts else ""


def signed(change: Change) -> str:
    """+0.12 % [-0.05, +0.30]"""
    return f"{100 * change.change:+.2f} % [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
