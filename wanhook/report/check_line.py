"""Whether the memory figures are torch's own: the lines of the replay's self-check."""

from __future__ import annotations

from wanhook.analysis.memory import DeviceMemory
from wanhook.report.sheet import Sheet
from wanhook.report.text import mib, on_ranks, ranks_named, seconds


def write_check(sheet: Sheet, memory: list[DeviceMemory]) -> None:
    """One line for all ranks, one for the ranks of which nothing is claimed (why stands beside their figures), then one
    for each rank on which the replay went wrong, at the first place where it did."""
    places, equal = (sum(getattr(state.check, name) for state in memory) for name in ("places", "equal"))
    if places:
        sheet.line(f"Memory replay exact at {equal} of {places} checks.", "" if equal == places else "yellow")
    refused = [state.rank for state in memory if state.check.refused]
    if refused:
        sheet.line(f"! Memory figures are not claimed to be exact {on_ranks(refused)}; MEMORY says why.", "yellow")
    contradicted = [state.rank for state in memory if state.check.contradictions]
    if contradicted:
        sheet.line(
            f"! Events contradict the memory replay {on_ranks(contradicted)}: nothing is checked or claimed from "
            "there to the next known state.",
            "yellow",
        )
    for state in memory:
        if state.check.first_difference:
            _write_difference(sheet, state, several=sum(other.rank == state.rank for other in memory) > 1)


def _write_difference(sheet: Sheet, state: DeviceMemory, several: bool) -> None:
    check, wrong = state.check, state.check.first_difference
    device = f", device {state.device}" if several and state.device >= 0 else ""
    where = ranks_named([state.rank]).capitalize() + device
    said = f"{wrong.what} {_figure(wrong.what, wrong.ours)}, torch {_figure(wrong.what, wrong.torchs)}"
    when = f"first wrong after {seconds(wrong.at_ns)}"
    sheet.line(f"! {where}: exact at {check.equal} of {check.places} checks, {when}: {said}.", "yellow")


def _figure(what: str, value: object) -> str:
    """Bytes in MiB and in full; counts and parts of an address map as they are."""
    counted = what in ("requested", "allocated", "active", "reserved", "inactive_split")
    return f"{mib(value)} MiB ({value})" if counted and isinstance(value, int) else str(value)
