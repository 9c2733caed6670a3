"""What recording cost, as sentences of the health part."""

from __future__ import annotations

from wanhook.analysis.paired_change import FEWEST, Change
from wanhook.analysis.perturbation import Perturbation
from wanhook.report.sheet import Sheet
from wanhook.report.text import ms, percent

_CLOCKS = {"gpu": "GPU time", "host": "host time"}


def write_perturbations(sheet: Sheet, found: list[Perturbation]) -> None:
    for each in found:
        sheet.line(_cost(each), "yellow" if each.found else "")
        if each.lost_share_at_most is not None:
            sheet.line(
                f"Collectives run beside other work for {ms(each.beside_ns)} ms a step; recording can have taken "
                f"{percent(each.lost_share_at_most)} of that at most."
            )
        sheet.line(
            f"Nothing was recorded inside {each.muted} of {each.steps} {each.path}: counts, sums and memory figures "
            "lack what happened there."
        )


def _cost(each: Perturbation) -> str:
    if each.time is None:
        return f"Recording cost of {each.path}: unknown, {each.pairs} pairs of steps are too few; {FEWEST} will do."
    clock = _CLOCKS[each.clock]
    return f"Recording cost {signed(each.time)} of the {clock} of {each.path}, over {each.pairs} pairs of steps."


def signed(change: Change) -> str:
    """+0.12 % [-0.05, +0.30]"""
    return f"{100 * change.change:+.2f} % [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
