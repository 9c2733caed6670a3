"""What a collective costs on the host: `python -m benchmarks.collective_cost [--quick] [--world-size N]`.

A sync `dist.all_to_all_single`, host time of the call alone. With the gate closed, recorded, and under torch.profiler
it takes turns; over bare it is told in many processes (`attaching`). One process a rank, started from here; NCCL on
GPUs, else gloo.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from .attaching import AGAIN, BARE, CLOSED, RECORDED, STRETCHES, leave_out_of_garbage, paused_recording, table_over_bare
from .processes import in_new_processes
from .rounds import Variant, figure, interleave, medians, paired, stacked
from .scope_cost import event_records, recording, take_event_records
from .unit_report import Table, arguments, finish, rounds_of

BUDGET = 1_000.0  # ns a collective, beside its two event records
BYTES = 1 << 16
LEAD_IN = 50  # calls before those that are measured
RECORDS, OFF, PROFILED = "two cudaEventRecord calls", "profiler off", "torch.profiler"


def call_nanoseconds(output: torch.Tensor, source: torch.Tensor, count: int) -> float:
    """ns until a call is back. ``count`` stays low, so that the stream's queue never fills and the host never waits."""
    exchange = dist.all_to_all_single
    for _ in range(LEAD_IN):
        exchange(output, source)
    begin = time.perf_counter_ns()
    for _ in range(count):
        exchange(output, source)
    spent = time.perf_counter_ns() - begin
    if output.is_cuda:
        torch.cuda.synchronize()
        time.sleep(0.03)  # the resolver gives the event pairs back
    return spent / count


@contextlib.contextmanager
def profiler() -> Iterator[None]:
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if torch.cuda.is_available() else [kinds.CPU]
    with torch.profiler.profile(activities=activities):
        yield


@contextlib.contextmanager
def group_of(rank: int, world_size: int, store: Path) -> Iterator[torch.device]:
    """This process as a rank of a new group, and the rank's device."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    leave_out_of_garbage()
    dist.init_process_group("nccl" if cuda else "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    yield device
    dist.destroy_process_group()


def measure_of(device: torch.device, world_size: int, count: int):
    source = torch.ones(BYTES // 4 * world_size, device=device)
    return partial(call_nanoseconds, torch.empty_like(source), source, count)


def attached(rank: int, world_size: int, count: int, folder: Path) -> dict[str, float]:
    """ns a call by variant, in a process to which nothing was attached before. All ranks do the same."""
    with group_of(rank, world_size, folder / "store") as device:
        measure = measure_of(device, world_size, count)
        found = medians([Variant(BARE, measure)], STRETCHES)
        found |= medians([Variant(AGAIN, measure)], STRETCHES)
        with paused_recording(folder / "recording"):
            found |= medians([Variant(CLOSED, measure), Variant(RECORDED, measure, recording)], STRETCHES)
    return found


def in_turn(rank: int, world_size: int, rounds: int, count: int, folder: Path) -> dict[str, np.ndarray]:
    """ns a call by variant, float64[rounds]; all variants in the same order on every rank."""
    with group_of(rank, world_size, folder / "store") as device, paused_recording(folder / "recording"):
        measure, cuda = measure_of(device, world_size, count), device.type == "cuda"
        variants = [Variant(CLOSED, measure), Variant(RECORDED, measure, recording)]
        found = interleave(variants + (event_records(count) if cuda else []), rounds)
        if cuda:
            found[RECORDS] = take_event_records(found)
        # Last: CUPTI leaves a process slower once it was in use.
        found |= interleave([Variant(OFF, measure), Variant(PROFILED, measure, profiler)], max(rounds // 2, 3))
    return found


def table_of(title: str, turns: dict[str, np.ndarray]) -> Table:
    table = Table(f"{title}, ns a call")
    for name in (CLOSED, RECORDED):
        table.add(name, figure(turns[name]))
    over = turns[RECORDED] - turns[CLOSED]
    if RECORDS in turns:
        table.add(f"{RECORDED}, over {CLOSED}", figure(over))
        table.add(RECORDS, figure(turns[RECORDS]))
        table.add(f"{RECORDED}, over {CLOSED}, less two event records", paired(over, turns[RECORDS]), BUDGET)
    else:
        table.add(f"{RECORDED}, over {CLOSED}", figure(over), BUDGET)
    table.add(f"{PROFILED}, over {CLOSED}", paired(turns[PROFILED], turns[OFF]))
    return table


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--world-size", type=int, default=1)
    chosen = parser.parse_args()
    rounds, ranks, cuda = rounds_of(chosen), chosen.world_size, torch.cuda.is_available()
    count = (100 if chosen.quick else 200) if cuda else (50 if chosen.quick else 500)

    def run(job, *arguments) -> dict:
        with tempfile.TemporaryDirectory(prefix="wanhook-bench-", dir=chosen.dir) as folder:
            store = Path(folder).resolve()  # of the URL of the ranks' store
            return in_new_processes(job, ranks, *arguments, store, ranks=ranks, patience=60 + 5 * rounds)

    turns = run(in_turn, rounds, count)
    apart = stacked([run(attached, count) for _ in range(rounds)])
    backend = "nccl" if cuda else "gloo"
    title = f"sync all_to_all_single of {BYTES >> 10} KiB a rank, {backend}, {ranks} rank(s), host"
    finish([table_of(title, turns), table_over_bare(title, apart)], chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
