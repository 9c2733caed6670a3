"""Report -> CSV of memory over time, one text a device."""

from __future__ import annotations

from wanhook.analysis.memory import DeviceMemory
from wanhook.analysis.memory_series import FIGURES
from wanhook.report.build import Report


def as_csv(report: Report) -> dict[str, str]:
    """File name -> CSV text with a header: `time_ns,until_ns`, then `<figure>_min,<figure>_max` for each of FIGURES
    (bytes; empty on the CPU for what rests on segments). A rank that left several recordings has its files numbered."""
    names: dict[str, int] = {}
    found = {}
    for state in report.memory:
        device = "cpu" if state.device < 0 else f"device{state.device}"
        name = f"memory_rank{max(state.rank, 0):05d}_{device}" if state.rank >= 0 else f"memory_{device}"
        names[name] = names.get(name, -1) + 1
        found[f"{name}{f'_{names[name]}' if names[name] else ''}.csv"] = _text(state)
    return found


def _text(state: DeviceMemory) -> str:
    series = state.series
    head = ["time_ns", "until_ns", *(f"{name}_{which}" for name in FIGURES for which in ("min", "max"))]
    none = [""] * len(series.time_ns)
    columns: list[list] = [series.time_ns, series.until_ns]
    for name in FIGURES:
        columns += [series.least.get(name, none), series.most.get(name, none)]
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([",".join(head), *lines, ""])
