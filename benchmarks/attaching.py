"""What a process costs more once something is attached to it, told from what it costs more anyway.

What is attached to a process stays attached, so attached and bare cannot take turns in one; and two processes differ by
more than a hook costs. So each of many new processes measures bare, bare again, and then attached. What bare again
differs by from bare is what such a comparison cannot tell; a verdict takes it into account. The processes are forked
from one server, so their memory is laid out alike: the bounds do not hold what another layout would change.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .rounds import figure, paired
from .unit_report import Table

STRETCHES = 8  # of each variant in one process; their median counts
BARE, AGAIN, CLOSED, RECORDED = "bare", "bare again", "gate closed", "recorded"


def leave_out_of_garbage() -> None:
    """Each measurement collects garbage first; what is alive by now, torch's own objects, is to take no part in it."""
    gc.collect()
    gc.freeze()


@contextmanager
def paused_recording(folder: Path) -> Iterator[None]:
    """wanhook attached to this process, its gate closed."""
    import wanhook

    wanhook.start(folder)
    wanhook.pause()
    leave_out_of_garbage()
    yield
    wanhook.stop(wait=10)


def table_over_bare(what: str, found: dict[str, np.ndarray], parts: int = 1, budget: float | None = None) -> Table:
    """``found``: ns of one operation by BARE, AGAIN and what was then attached (float64[processes]). Lines of that are
    over AGAIN, which came right before, and for one of ``parts``; RECORDED has the budget."""
    table = Table(f"{what}, attached over bare in {len(found[BARE])} processes, ns{' a part' if parts > 1 else ''}")
    table.add(f"{BARE}{', all parts' if parts > 1 else ''}", figure(found[BARE]))
    control = paired(found[AGAIN], found[BARE], parts)
    table.add(f"{AGAIN}, over bare", control)
    for name, values in found.items():
        if name not in (BARE, AGAIN):
            held = budget if name == RECORDED else None
            table.add(f"{name}, over bare", paired(values, found[AGAIN], parts), held, control)
    return table
