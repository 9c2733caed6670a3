"""A page of text: headings, sentences and aligned tables, at a fixed width, with colour or without."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from wanhook.report.text import plain

_INDENT = 2
_LEAST_NAME = 12


class Sheet:
    """Collects a report's text. Every string is escaped and taken as it is: no markup is understood.

    Tables are laid out here and not by rich: its tables shorten figures as soon as a name does not fit.
    """

    def __init__(self, width: int, colour: bool) -> None:
        self._width = width
        self._out = io.StringIO()
        self._console = Console(
            file=self._out,
            width=width,
            color_system="standard" if colour else None,
            force_terminal=colour,
            no_color=not colour,
            force_jupyter=False,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            _environ={},
        )

    def blank(self) -> None:
        self._console.print()

    def heading(self, title: str, about: str = "") -> None:
        self.blank()
        self._console.print(Text.assemble((plain(title), "bold"), ("  " + plain(about) if about else "", "dim")))

    def line(self, text: str, style: str = "", indent: int = _INDENT) -> None:
        """A sentence; what does not fit goes on in the next line, indented alike."""
        self._console.print(Padding(Text(plain(text), style), (0, 0, 0, indent)))

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Sequence[str] = (),
        *,
        keep_end: bool = False,
    ) -> None:
        """The first column holds names: it alone gives way where the width does not do, at the end of a name or, with
        `keep_end`, at its begin. The others are figures. A title is broken at its line feeds; a row of one cell goes
        across the table."""
        titles = [title.split("\n") for title in columns]
        head = list(zip_longest(*([""] * (max(map(len, titles)) - len(parts)) + parts for parts in titles)))
        body = [[plain(cell) for cell in row] for row in rows]
        widths, gap = self._layout([*head, *(row for row in body if len(row) > 1)])
        for row, style in [*((row, "dim") for row in head), *zip_longest(body, styles[: len(body)], fillvalue="")]:
            name, *figures = row
            cells = [_fit(name, widths[0], keep_end)] if figures else [_fit(name, self._width - _INDENT, False)]
            cells += [" " * (width - cell_len(cell)) + cell for cell, width in zip(figures, widths[1:], strict=False)]
            line = " " * _INDENT + (" " * gap).join(cells)
            # Figures give way only where a damaged file makes them longer than any true one.
            line = line.rstrip() if cell_len(line) <= self._width else _fit(line, self._width, False)
            self._console.print(Text(line, style), soft_wrap=True)

    def _layout(self, rows: Sequence[Sequence[str]]) -> tuple[list[int], int]:
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        room = self._width - _INDENT - sum(widths)
        gap = 2 if room >= 2 * (len(widths) - 1) else 1
        widths[0] = min(widths[0], max(widths[0] + room - gap * (len(widths) - 1), _LEAST_NAME))
        return widths, gap

    def text(self) -> str:
        """All of it; lines carry no trailing blanks."""
        return "\n".join(line.rstrip() for line in self._out.getvalue().split("\n"))


def _fit(name: str, width: int, keep_end: bool) -> str:
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    if not keep_end:
        return set_cell_size(name, width - 1) + "…"
    while cell_len(name) > width - 1:
        name = name[max(1, (cell_len(name) - width) // 2) :]
    return set_cell_size("…" + name, width)
