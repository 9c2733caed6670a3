"""Figures and names as text: one unit a kind of figure, names harmless to a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wanhook.analysis.ranks import NO_RANK, named, on

if TYPE_CHECKING:
    from wanhook.analysis.memory_owners import Source

NOTHING = "-"
MIB = 1 << 20
# Control characters move the cursor, format characters reorder or hide text, surrogates cannot be encoded.
_HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(name: str) -> str:
    """The name with every character that a terminal would act upon, or not show, written as an escape."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(_escape(char) if unicodedata.category(char) in _HARMFUL else char for char in name)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def ms(ns: float | None) -> str:
    """Milliseconds with at least three digits that count: 0.084, 12.35, 6310.2."""
    if ns is None:
        return NOTHING
    size = abs(ns / 1e6)
    return _bounded(ns / 1e6, 3 if size < 10 else 2 if size < 100 else 1 if size < 1e5 else 0)


def us(ns: float | None) -> str:
    """Microseconds with one decimal below 100: 4.7, 35.0, 2000."""
    return NOTHING if ns is None else _bounded(ns / 1e3, 1 if abs(ns) < 1e5 else 0)


def mib(size: float | None) -> str:
    """MiB with one decimal, three below 1 MiB so that small messages do not read as nothing."""
    if size is None:
        return NOTHING
    return _bounded(size / MIB, 1 if abs(size) >= MIB or size == 0 else 3)


def gb_per_s(rate: float | None) -> str:
    """GB (10^9 bytes) a second, as nccl-tests prints bandwidth."""
    return NOTHING if rate is None else _bounded(rate / 1e9, 2 if rate < 1e11 else 1)


def percent(share: float | None, digits: int = 1) -> str:
    return NOTHING if share is None else f"{share:.{digits}%}"


def seconds(ns: int) -> str:
    return f"{ns / 1e9:.3f} s"


def _bounded(value: float, decimals: int) -> str:
    """What only a damaged file can hold is cut to its magnitude, so that the columns keep their places."""
    return f"{value:.{decimals}f}" if abs(value) < 1e9 else f"{value:.0e}"


def span(values: Iterable[int]) -> str:
    """One number where all are equal, else the least and the largest."""
    least, most = min(known := list(values)), max(known)
    return str(least) if least == most else f"{least}-{most}"


def rank_list(ranks: Iterable[int]) -> str:
    """Ranks in ascending order, runs of them joined: 0-3, 7."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank > 0 and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join("none" if a < 0 else str(a) if a == b else f"{a}-{b}" for a, b in runs)


def ranks_named(ranks: Iterable[int]) -> str:
    """ "rank 3", "ranks 0-3, 7"; "the process" for one that had none."""
    known = sorted(set(ranks))
    if len(known) == 1:
        return named(known[0])
    return f"ranks {rank_list(known)}"


def on_ranks(ranks: Iterable[int]) -> str:
    """ "on rank 3", "on ranks 0-3, 7", "in the process"."""
    known = sorted(set(ranks))
    return on(known[0]) if len(known) == 1 else f"on {ranks_named(known)}"


def rank_cell(rank: int, device: int | None = None) -> str:
    """A cell of a table's column of ranks. `device`: to be told apart from another one of that rank; -1 is the CPU."""
    name = NOTHING if rank == NO_RANK else str(rank)
    return name if device is None or device < 0 else f"{name}, device {device}"


def source_text(source: Source) -> str:
    """Where blocks were allocated, as a cell of a table has it: a path, and the expert where it is told apart."""
    name = source.path if source.path is not None else f"({source.kind})"
    return f"{name} [{source.component}]" if source.component else name
