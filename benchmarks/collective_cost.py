"""What a collective costs on the host: `python -m benchmarks.collective_cost [--quick] [--world-size N]`.

A sync `dist.all_to_all_single`, host time of the call alone: before anything is attached, with the gate closed,
recorded, and under torch.profiler. One process a rank, started from here; NCCL on GPUs, else gloo.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from .rounds import Variant, figure, interleave, paired, unpaired
from .scope_cost import event_records, recording, take_event_records
from .unit_report import Table, arguments, finish, rounds_of

BUDGET = 1_000.0  # ns a collective, beside its two event records
BYTES = 1 << 16
TIMEOUT = 300  # seconds; a rank that waits for a lost one must not wait for ever


def call_nanoseconds(output: torch.Tensor, source: torch.Tensor, count: int) -> float:
    """ns until a call is back. ``count`` stays low, so that the stream's queue never fills and the host never waits."""
    exchange = dist.all_to_all_single
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


def measure_rank(rounds: int, count: int, device: torch.device, folder: Path) -> Table:
    """All variants, in the same order on every rank. Returns this rank's table."""
    world_size = dist.get_world_size()
    source = torch.ones(BYTES // 4 * world_size, device=device)
    measure = partial(call_nanoseconds, torch.empty_like(source), source, count)
    cuda = device.type == "cuda"
    bare = interleave([Variant("bare", measure)], rounds)["bare"]
    import wanhook

    wanhook.start(folder / "recording")
    wanhook.pause()
    variants = [Variant("gate closed", measure), Variant("recorded", measure, recording)]
    measured = interleave(variants + (event_records(count) if cuda else []), rounds)
    records = take_event_records(measured) if cuda else None
    # Last: CUPTI leaves a process slower once it was in use.
    profiled = interleave([Variant("off", measure), Variant("on", measure, profiler)], max(rounds // 2, 3))
    wanhook.stop(wait=10)

    backend = dist.get_backend()
    table = Table(
        f"sync all_to_all_single of {BYTES >> 10} KiB a rank, {backend}, {world_size} rank(s): host ns a call"
    )
    table.add("bare", figure(bare))
    for name, values in measured.items():
        table.add(name, figure(values))
    table.add("bare, its later rounds over its earlier ones", unpaired(bare[rounds // 2 :], bare[: rounds // 2]))
    table.add("gate closed, over bare", unpaired(measured["gate closed"], bare))
    over = measured["recorded"] - measured["gate closed"]
    if records is None:
        table.add("recorded, over gate closed", figure(over), BUDGET)
    else:
        table.add("recorded, over gate closed", figure(over))
        table.add("two cudaEventRecord calls", figure(records))
        table.add("recorded, over gate closed, less two event records", paired(over, records), BUDGET)
    table.add("torch.profiler, over gate closed", paired(profiled["on"], profiled["off"]))
    return table


def run_rank(chosen, store: Path) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    count = (100 if chosen.quick else 200) if cuda else (50 if chosen.quick else 500)
    table = measure_rank(rounds_of(chosen), count, device, store.parent)
    if rank == 0:
        finish([table], chosen.out)
    dist.destroy_process_group()


def start_ranks(world_size: int) -> int:
    """Start this module once a rank; the exit status of the first one that failed. Ends all ranks when one fails."""
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-"))
    command = [sys.executable, "-m", "benchmarks.collective_cost", *sys.argv[1:], "--store", str(folder / "store")]
    ranks = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size)})
        for rank in range(world_size)
    ]
    deadline = time.monotonic() + TIMEOUT
    try:
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            if any(rank.returncode for rank in ranks):
                break
            time.sleep(0.1)
        return next((rank.poll() if rank.poll() is not None else 1 for rank in ranks if rank.poll() != 0), 0)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--store", type=Path, help="set for the processes of the ranks, which are started from here")
    chosen = parser.parse_args()
    if chosen.store is None:
        return start_ranks(chosen.world_size)
    run_rank(chosen, chosen.store)
    return 0


if __name__ == "__main__":
    sys.exit(main())
