"""What the entry point costs everybody, and what Wan's wrappers cost: `python -m benchmarks.integration_cost`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import torch

from .rounds import Variant, figure, interleave, paired
from .scope_cost import nanoseconds, recording
from .unit_report import Table, arguments, finish, rounds_of

ENTRY_BUDGET = 1e6  # ns, while WANHOOK is unset


def entry_nanoseconds(count: int) -> float:
    """Loading the entry point as torch does, and calling it, in a process that has not done so; the mean of few."""
    point = EntryPoint("wanhook", "wanhook_autoload:attach", "torch.backends")
    spent = 0
    for _ in range(count):
        sys.modules.pop("wanhook_autoload", None)
        began = time.perf_counter_ns()
        point.load()()
        spent += time.perf_counter_ns() - began
    return spent / count


def entry_table(rounds: int) -> Table:
    os.environ.pop("WANHOOK", None)
    sys.modules.pop("wanhook_autoload", None)
    before = set(sys.modules)
    entry_nanoseconds(1)
    added = sorted(set(sys.modules) - before)
    measured = interleave([Variant("load and call", partial(entry_nanoseconds, 5))], rounds)
    table = Table("entry point while WANHOOK is unset: ns an `import torch`")
    table.add("load and call", figure(measured["load and call"]), ENTRY_BUDGET)
    table.notes.append(f"modules added: {', '.join(added)}")
    return table


def _modules() -> dict[str, torch.nn.Module]:
    """A module that does nothing, and the same with the wrappers of an op and of a block."""
    from wanhook.integrations.wan import models, wrapping
    from wanhook.integrations.wan.points import Point

    class Bare(torch.nn.Module):
        def forward(self, x):
            return x

    call = torch.nn.Module.__call__
    op = wrapping._wrapper(Point("wan", "op", "op", level="op"), "op")
    kinds = {"op": op, "block": models.block("block")}
    made = {name: type(name, (Bare,), {"__call__": wrap(call)})() for name, wrap in kinds.items()}
    models._mark(made["block"], 0)
    return {"bare": Bare(), **made}


def call_table(rounds: int, count: int) -> Table:
    names = {"x": torch.ones(1), **_modules()}
    measures = {name: partial(nanoseconds, f"{name}(x)", names, count) for name in ("bare", "op", "block")}
    variants = [Variant("bare", measures["bare"])]
    for name in ("op", "block"):
        variants.append(Variant(f"{name}, gate closed", measures[name]))
        variants.append(Variant(f"{name}, recorded", measures[name], recording))
    measured = interleave(variants, rounds)
    table = Table("calling a module without GPU events: ns more than bare")
    table.add("bare (absolute)", figure(measured["bare"]))
    for name in [variant.name for variant in variants[1:]]:
        table.add(name, paired(measured[name], measured["bare"]))
    return table


def main() -> None:
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    rounds, count = rounds_of(chosen), 500 if chosen.quick else 5_000
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir))
    tables = [entry_table(rounds)]
    import wanhook

    try:
        wanhook.start(folder / "recording")
        wanhook.pause()
        tables.append(call_table(rounds, count))
        wanhook.stop(wait=10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(tables, chosen.out)


if __name__ == "__main__":
    main()
