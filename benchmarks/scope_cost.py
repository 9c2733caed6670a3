"""What a scope costs on the host: `python -m benchmarks.scope_cost [--quick]`.

Entering and leaving one `with`, with and without GPU events, beside contextlib, record_function and NVTX; and the rate
at which records can be appended from Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import tempfile
import time
import timeit
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .rounds import Variant, figure, interleave, paired
from .unit_report import Table, arguments, finish, rounds_of

BUDGET = 500.0  # ns a scope, beside its two event records
RESOLVED_SECONDS = 0.03  # until the resolver has given the event pairs back
WARM_UP_SECONDS = 0.5
RECORDS, CTYPES = "two records", "two calls through ctypes"


def nanoseconds(statement: str, names: dict, count: int) -> float:
    """ns of one ``statement``, written into the loop itself; the GPU is waited for afterwards."""
    spent = timeit.Timer(statement, globals=names, timer=time.perf_counter).timeit(count)
    settle()
    return spent * 1e9 / count


def settle() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        time.sleep(RESOLVED_SECONDS)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    import wanhook

    wanhook.resume()
    try:
        yield
    finally:
        wanhook.pause()


def scopes(count: int) -> list[Variant]:
    """Our own, gate closed and recorded, in all the ways to write one."""
    import wanhook

    @wanhook.trace("decorated", level="op")
    def decorated() -> None:
        pass

    names = {"trace": wanhook.trace, "mark": wanhook.mark, "decorated": decorated}
    statements = {
        "scope": 'with trace("scope", level="op"): pass',
        "decorated function": "decorated()",
        "mark": 'mark("mark")',
        "scope with two arguments": 'with trace("scope", level="op", step=7, late=1.5): pass',
        "stage scope": 'with trace("stage"): pass',
    }
    measures = {name: partial(nanoseconds, statement, names, count) for name, statement in statements.items()}
    closed = [Variant(f"{name}, gate closed", measures[name]) for name in ("scope", "decorated function", "mark")]
    return closed + [Variant(f"{name}, recorded", measure, recording) for name, measure in measures.items()]


def others(count: int) -> list[Variant]:
    names = {
        "nullcontext": contextlib.nullcontext,
        "record_function": torch.profiler.record_function,
        "push": torch.cuda.nvtx.range_push,
        "pop": torch.cuda.nvtx.range_pop,
    }
    statements = {
        "contextlib.nullcontext": "with nullcontext(): pass",
        "record_function, no profiler": 'with record_function("scope"): pass',
    }
    if torch.cuda.is_available():
        statements["NVTX push and pop"] = 'push("scope"); pop()'
    return [Variant(name, partial(nanoseconds, statement, names, count)) for name, statement in statements.items()]


@contextlib.contextmanager
def profiler() -> Iterator[None]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        yield


def event_records(count: int) -> list[Variant]:
    """Two cudaEventRecord calls on a warm pair, called through ctypes, and what ctypes itself takes."""
    runtime = _runtime()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    for event in events:
        event.record()
    handles, stream = [ctypes.c_void_p(event.cuda_event) for event in events], ctypes.c_void_p(0)
    names = {
        "record": runtime.cudaEventRecord,
        "nothing": runtime.cudaPeekAtLastError,
        "begin": handles[0],
        "end": handles[1],
        "stream": stream,
        "events": events,  # alive as long as what holds their handles
    }
    if runtime.cudaEventRecord(handles[0], stream) != 0:
        raise RuntimeError("cudaEventRecord failed: its cost cannot be measured")
    statements = {
        RECORDS: "record(begin, stream); record(end, stream)",
        CTYPES: "nothing(begin, stream); nothing(end, stream)",
    }
    return [Variant(name, partial(nanoseconds, statement, names, count)) for name, statement in statements.items()]


def take_event_records(found: dict[str, np.ndarray]) -> np.ndarray:
    """ns of the two calls in each round (float64[rounds]) of what was measured with ``event_records`` among it, which
    it takes out of that."""
    return found.pop(RECORDS) - found.pop(CTYPES)


def _runtime() -> ctypes.CDLL:
    # The libcudart that torch calls; a second one would not know its events. Torch loads its own for all to see, and a
    # made-up one is preloaded; a torch that keeps it to itself has it among the mapped files.
    if hasattr(ctypes.CDLL(None), "cudaEventRecord"):
        return ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if "libcudart" in line:
            return ctypes.CDLL(line.split(maxsplit=5)[-1])
    raise RuntimeError("libcudart is not loaded")


def untimed_table(rounds: int, count: int) -> Table:
    """Scopes while CUDA is not initialised: records alone."""
    measured = interleave(scopes(count) + others(count), rounds)
    table = Table("scopes without GPU events: ns each")
    for name, values in measured.items():
        table.add(name, figure(values), BUDGET if name == "scope, recorded" else None)
    table.add(
        "scope, recorded, over nullcontext", paired(measured["scope, recorded"], measured["contextlib.nullcontext"])
    )
    on = partial(
        nanoseconds,
        'with record_function("scope"): pass',
        {"record_function": torch.profiler.record_function},
        max(count // 10, 100),
    )
    profiled = interleave([Variant("on", on, profiler)], max(rounds // 2, 3))
    table.add("record_function, under torch.profiler", figure(profiled["on"]))
    return table


def timed_table(rounds: int, count: int) -> Table:
    """Scopes on a GPU: two event records each. ``count`` stays low, so that the stream's queue never fills."""
    torch.ones(1, device="cuda").add_(1)
    torch.cuda.synchronize()
    measured = interleave(scopes(count) + others(count) + event_records(count), rounds)
    records = take_event_records(measured)
    table = Table("scopes with GPU events: ns each")
    table.add("two cudaEventRecord calls", figure(records))
    for name, values in measured.items():
        table.add(name, figure(values))
    for name in ("scope, recorded", "decorated function, recorded"):
        table.add(f"{name}, less two event records", paired(measured[name], records), BUDGET)
    return table


def main() -> None:
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    rounds, count = rounds_of(chosen), 500 if chosen.quick else 5_000
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir))
    import wanhook

    try:
        wanhook.start(folder / "recording")
        wanhook.pause()
        until = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < until:
            nanoseconds("pass", {}, 100_000)
        tables = [untimed_table(rounds, count)]
        if torch.cuda.is_available():
            tables.append(timed_table(rounds, min(count, 500)))
        wanhook.stop(wait=10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(tables, chosen.out)


if __name__ == "__main__":
    main()
