"""How the unit costs are printed and kept: lines of figures, some of them held against a budget of the design."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .rounds import Figure


@dataclass(frozen=True)
class Line:
    """One figure in ns. ``budget``: what the design allows, None where it says nothing. ``control``: what the same
    measurement finds where nothing differs."""

    what: str
    figure: Figure
    budget: float | None = None
    control: Figure | None = None

    @property
    def verdict(self) -> str:
        """ "pass" or "miss" when the whole interval, wider by the control's farther end on both sides, lies on one side
        of the budget, else "unclear"; "" without one. What saves as much as the budget allows is unclear too: recording
        makes nothing faster, so the machine did."""
        if self.budget is None:
            return ""
        doubt = max(abs(self.control.low), abs(self.control.high)) if self.control else 0.0
        low, high = self.figure.low - doubt, self.figure.high + doubt
        if high < -self.budget:
            return "unclear"
        return "pass" if high <= self.budget else "miss" if low > self.budget else "unclear"


@dataclass
class Table:
    """Lines under a title that says what one operation is."""

    title: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, figure: Figure, budget: float | None = None, control: Figure | None = None) -> None:
        self.lines.append(Line(what, figure, budget, control))

    def text(self) -> str:
        width = max([len(line.what) for line in self.lines], default=0)
        head = f"{self.title}\n  {'':<{width}}  {'median ns':>9} [{'95 %':>20}]  budget"
        rows = [
            f"  {line.what:<{width}}  {line.figure}"
            + (f"  <= {line.budget:g}: {line.verdict}" if line.budget is not None else "")
            for line in self.lines
        ]
        return "\n".join([head, *rows, *(f"  {note}" for note in self.notes)])

    def as_json(self) -> dict:
        lines = [asdict(line) | {"verdict": line.verdict} for line in self.lines]
        return {"title": self.title, "lines": lines, "notes": self.notes}


def arguments(description: str) -> argparse.ArgumentParser:
    """What each benchmark of unit costs takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it run, not what it costs")
    parser.add_argument("--rounds", type=int, help="rounds of each variant (20; 3 with --quick)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where recordings are written")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def rounds_of(chosen: argparse.Namespace) -> int:
    return chosen.rounds or (3 if chosen.quick else 20)


def finish(tables: list[Table], out: Path | None) -> None:
    """Print the tables, and write them where that was asked for."""
    print("\n\n".join(table.text() for table in tables), flush=True)
    write_json([table.as_json() for table in tables], out)


def write_json(value: object, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(value, indent=1) + "\n")
