"""The JSON of `benchmarks.run` as Markdown: `python -m benchmarks.results FILE > benchmarks/RESULTS.md`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

_TRACE_ENTRIES_A_RECORD = 1.5  # an alloc and its free are three entries of torch's trace, and two records


def render(results: dict) -> str:
    """All that one run of the benchmarks measured."""
    parts = [
        "# Benchmark results",
        "Made by `python -m benchmarks.results` from what `python -m benchmarks.run` wrote.",
    ]
    if results["quick"]:
        parts.append("**Quick run: these figures show that the benchmarks work, not what anything costs.**")
    parts.append(_table(["", ""], [[name, str(value)] for name, value in results["machine"].items()]))
    if "unit" in results:
        parts += ["## Unit costs", *_unit(results["unit"]["parts"])]
    if "reading" in results:
        parts += ["## Reading", _fenced(results["reading"].get("output", [results["reading"].get("skipped", "")]))]
    if "wan" in results:
        parts += ["## Wan2.2's own generate()", *_wan(results)]
    return "\n\n".join(parts) + "\n"


def _unit(parts: dict) -> list[str]:
    found = []
    for name, part in parts.items():
        if "failed" in part:
            found.append(f"{name}: failed, {part['failed']}")
        elif isinstance(part["figures"], dict):
            found.append(_writeback(part["figures"]))
        else:
            found += [_unit_table(table) for table in part["figures"]]
    return found


def _unit_table(table: dict) -> str:
    rows = []
    for line in table["lines"]:
        figure, budget = line["figure"], line["budget"]
        held = "" if budget is None else f"{budget:g}: {line['verdict']}"
        rows.append([line["what"], f"{figure['median']:.1f}", f"{figure['low']:.1f} … {figure['high']:.1f}", held])
    notes = [f"\n\n{note[0].upper()}{note[1:]}." for note in table["notes"]]
    return f"### {table['title']}\n\n" + _table(["", "median", "95 %", "budget"], rows) + "".join(notes)


def _writeback(figures: dict) -> str:
    names = list(next(iter(figures["percentiles"].values())))
    rows = [[what, *(f"{values[name]:.0f}" for name in names)] for what, values in figures["percentiles"].items()]
    head = ["alloc + free, each timed alone, ns", *(f"p{name}" for name in names)]
    dropped = f"Records dropped: {figures['dropped']}."
    return f"### Worst case under heavy writeback\n\n{_table(head, rows)}\n\n{dropped}"


def _wan(results: dict) -> list[str]:
    if "skipped" in results["wan"]:
        return [f"Not run: {results['wan']['skipped']}."]
    found = []
    for size, outcome in results["wan"].items():
        if not isinstance(outcome, dict):
            continue
        if not outcome["figures"]:
            found.append(f"### {size}\n\nFailed: {outcome['status']}.")
            continue
        figures = outcome["figures"]
        found.append(f"### {size}\n\n{_observers(figures['costs'])}\n\n{_counted(figures, results)}")
    return found


def _observers(costs: list[dict]) -> str:
    rows = []
    for cost in costs:
        change, low, high = (f"{100 * (cost['ratio'][name] - 1):+.2f} %" for name in ("median", "low", "high"))
        rows.append([
            cost["observer"], cost["phase"], str(cost["ratio"]["pairs"]), f"{cost['bare_seconds']:.4f}",
            f"{cost['seconds']:.4f}", change, f"{low} … {high}",
            f"{cost['exit_seconds']:.2f}", f"{cost['output_bytes'] / (1 << 20):.1f}",
        ])  # fmt: skip
    return _table(["observer", "phase", "pairs", "bare s", "s", "change", "95 %", "exit s", "MiB a rank"], rows)


def _counted(figures: dict, results: dict) -> str:
    """Counts of one request times unit costs, as a share of the request."""
    parts = results.get("unit", {}).get("parts", {})
    costs = {
        "allocator_events": _median(parts, "allocator", "cost of one entry (3", "recorded, over bare"),
        "collectives": _median(parts, "collective", "nccl", "recorded, over gate closed"),
        "scopes": _median(parts, "scope", "with GPU events", "scope, recorded"),
    }
    counts = next(iter(figures["events"].values()), None)
    if counts is None or None in costs.values():
        return "Counts times unit costs: not known without unit costs on a GPU and a recorded request."
    costs["allocator_events"] *= _TRACE_ENTRIES_A_RECORD
    spent = sum(counts[name] * cost for name, cost in costs.items())
    bare = figures["costs"][0]["bare_seconds"]
    counted = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in costs)
    return f"Counts times unit costs: {counted}: {spent / 1e6:.2f} ms of {bare:.3f} s, {spent / 1e7 / bare:.3f} %."


def _median(parts: dict, part: str, title: str, what: str) -> float | None:
    """One line's median in ns; None where it was not measured."""
    tables = parts.get(part, {}).get("figures", [])
    found = [line for table in tables if title in table["title"] for line in table["lines"] if line["what"] == what]
    return found[0]["figure"]["median"] if found else None


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])


if __name__ == "__main__":
    sys.stdout.write(render(json.loads(Path(sys.argv[1]).read_text())))
