"""The comparisons of a run as Markdown and as plain values for JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict

from .comparison import Comparison, summary
from .outcomes import FAILED, short

_HEAD = [
    "program", "run", "passed", "failed", "skipped", "differ", "tests with recorded collectives", "traces",
    "collectives", "allocator events", "waits of FSDP",
]  # fmt: skip


def as_json(found: Comparison) -> dict:
    return {
        **asdict(found),
        "compared": found.compared(),
        "verdicts": {item.test: item.verdict() for item in found.differences},
        "complaints": found.complaints(),
    }


def render(runs: list[dict], comparisons: list[Comparison], waiting: Iterable[str]) -> str:
    """``runs``: command and machine of each run that the comparisons come from; ``waiting``: programs that were not
    run, or not yet."""
    rows = [summary(found) for found in comparisons]
    total = ["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])] if rows else []
    parts = [
        "# PyTorch's own distributed tests, without and with WANHOOK=1",
        *(_origin(run) for run in runs),
        "Each program ran twice. *run* counts tests that ran to their end both times and were skipped neither time; "
        "*passed* and *failed* are the outcomes without recording, and *differ* counts tests whose outcome was another "
        "one with it.",
        _table(_HEAD, [*rows, total] if rows else []),
        "## Difference of the outcomes",
        *_differences(comparisons),
        *_failed(comparisons),
        *_rest(comparisons, list(waiting)),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(run: dict) -> str:
    facts = [f"{name} {value}" for name, value in run["machine"].items() if value is not None]
    return f"`{run['command']}`: {', '.join(facts)}."


def _differences(comparisons: list[Comparison]) -> list[str]:
    rows = [
        [
            found.program,
            short(item.test),
            *item.outcomes,
            *(" ".join(side) or "–" for side in item.alone),
            item.verdict(),
        ]
        for found in comparisons
        for item in found.differences
    ]
    if not rows:
        return ["None."]
    head = ["program", "test", "without", "with", "alone, without", "alone, with", "verdict"]
    return [_table(head, rows)]


def _failed(comparisons: list[Comparison]) -> list[str]:
    rows = [
        [found.program, short(test), _shown(found.bare.why.get(test, ""))]
        for found in comparisons
        for test in found.compared(FAILED)
    ]
    return ["## Tests that fail either way", _table(["program", "test", "why"], rows)] if rows else []


def _rest(comparisons: list[Comparison], waiting: list[str]) -> list[str]:
    lines = [f"- {found.program}: {sentence}" for found in comparisons for sentence in found.complaints()]
    lines += [
        f"- {found.program}: {len(found.missing)} tests were reached once only (ended {' and '.join(found.ended)})"
        for found in comparisons
        if found.missing
    ]
    lines += [f"- {name}: not run" for name in waiting]
    return ["## What this run does not show", "\n".join(lines)] if lines else []


def _shown(why: str) -> str:
    """The end of what a test said, in a cell: without torch's advice on how to run it, and without the folders of a
    machine, as results are kept."""
    said = why.partition(" To execute this test")[0]
    return re.sub(r"/?(?:[^\s/\"]+/)+(?=[^\s/]+/[^\s/]+)", "", said)[-160:].replace("|", "/")


def _table(head: list[str], rows: list) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])
