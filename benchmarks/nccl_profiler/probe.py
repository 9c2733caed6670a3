"""Compares NCCL's profiler plugin with CUPTI: `python -m benchmarks.nccl_profiler.probe [--calls N]`."""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).parent
EVENT = np.dtype([("type", "u8"), ("parent", "u8"), ("begin", "u8"), ("end", "u8")])
KERNEL_CHANNEL = 0x40
SIZES = (64 << 10, 4 << 20, 64 << 20)
SITUATIONS = ("busy", "idle", "async", "overlap")
TIMEOUT = 240  # seconds; ranks that lost each other must not wait for ever


class Plugin:
    """The plugin that NCCL has loaded into this process."""

    def __init__(self, library: str):
        self._library = ctypes.CDLL(library)
        self._library.probe_events.restype = ctypes.c_void_p

    def switch(self, on: bool) -> None:
        self._library.probe_switch(int(on))

    def events(self) -> np.ndarray:
        """EVENT[n], so far; the handle of an event is its place, and 0 is none."""
        count, address = self._library.probe_used(), self._library.probe_events()
        return np.frombuffer((ctypes.c_char * (count * EVENT.itemsize)).from_address(address), EVENT).copy()

    def kernels(self, first: int) -> np.ndarray:
        """(begin, end) of each call whose events came from `first` on, ns of the device's timer (int64[n, 2])."""
        events = self.events()
        spans: dict[int, list[int]] = {}
        for at in np.flatnonzero(events["type"] == KERNEL_CHANNEL):
            if at < first:
                continue
            root = int(at)
            while events["parent"][root]:  # channel -> collective or P2P -> call -> group of calls
                root = int(events["parent"][root])
            span = spans.setdefault(root, [1 << 62, 0])
            span[0] = min(span[0], int(events["begin"][at]))
            span[1] = max(span[1], int(events["end"][at]))
        return np.array([spans[root] for root in sorted(spans)], np.int64).reshape(-1, 2)


def operations(size: int) -> dict[str, Callable]:
    """Collectives on tensors of `size` bytes a rank."""
    whole = [torch.zeros(size // 2, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    half = [torch.zeros(size // 4, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    return {
        "all_to_all": lambda **how: dist.all_to_all_single(whole[1], whole[0], **how),
        "all_gather": lambda **how: dist.all_gather_into_tensor(whole[1], half[0], **how),
        "reduce_scatter": lambda **how: dist.reduce_scatter_tensor(half[1], whole[0], **how),
    }


def issue(call: Callable, situation: str, matrix: torch.Tensor, side: torch.cuda.Stream) -> None:
    """One call: behind work, on an idle GPU, asynchronous, or on a side stream beside matmuls."""
    if situation == "busy":
        torch.cuda._sleep(1_000_000)
        call()
    elif situation == "idle":
        torch.cuda.synchronize()
        call()
    elif situation == "async":
        torch.cuda._sleep(500_000)
        call(async_op=True).wait()
    else:
        for _ in range(2):
            torch.mm(matrix, matrix)
        with torch.cuda.stream(side):
            call()
        torch.mm(matrix, matrix)


def compare(plugin: Plugin, calls: int, say: Callable[[str], None]) -> None:
    matrix, side = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16), torch.cuda.Stream()
    base = None
    for size in SIZES:
        for name, call in operations(size).items():
            for situation in SITUATIONS:
                issue(call, situation, matrix, side)
                dist.barrier()
                torch.cuda.synchronize()
                time.sleep(0.02)
                first = len(plugin.events())
                with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                    for _ in range(calls):
                        issue(call, situation, matrix, side)
                    torch.cuda.synchronize()
                time.sleep(0.02)  # NCCL's proxy thread hands the stamps on
                seen = [event for event in profiled.profiler.kineto_results.events() if "ncclDev" in event.name()]
                true = np.array(sorted((event.start_ns(), event.end_ns()) for event in seen), np.int64).reshape(-1, 2)
                told = plugin.kernels(first)
                head = f"{size >> 10:6d} KiB {name:14s} {situation:8s}"
                if len(true) != len(told) or not len(true):
                    say(f"{head} {len(told)} spans by the plugin, {len(true)} kernels by Kineto")
                    continue
                base = np.median(told[:, 0] - true[:, 0]) if base is None else base  # two clocks
                say(f"{head} {_difference(true, told, base)}")


def _difference(true: np.ndarray, told: np.ndarray, base: float) -> str:
    length = 1e-3 * (np.diff(told, axis=1) - np.diff(true, axis=1))
    low, high = np.percentile(length, [5, 95])
    begin, end = (1e-3 * (np.median(told[:, side] - true[:, side]) - base) for side in (0, 1))
    return (
        f"Kineto {1e-3 * np.median(np.diff(true, axis=1)):8.1f} us; plugin - Kineto: length {np.median(length):+9.2f} "
        f"[{low:+9.2f}, {high:+9.2f}], begin {begin:+9.2f}, end {end:+9.2f} us"
    )


def host_cost(plugin: Plugin | None, say: Callable[[str], None]) -> None:
    """us that the host needs for a call, by what is switched on; the states take turns."""
    states = [("no plugin", False)] if plugin is None else [("loaded, events off", False), ("events on", True)]
    for name, call in operations(SIZES[0]).items():
        spent: dict[str, list[float]] = {state: [] for state, _ in states}
        for turn in range(13):
            for state, on in states:
                if plugin is not None:
                    plugin.switch(on)
                dist.barrier()
                torch.cuda.synchronize()
                began = time.perf_counter()
                for _ in range(200):
                    call()
                if turn:
                    spent[state].append(1e6 * (time.perf_counter() - began) / 200)
                torch.cuda.synchronize()
        say(f"{name:14s} us a call: " + ", ".join(f"{state} {np.median(spent[state]):.2f}" for state in spent))


def run_rank(chosen) -> None:
    rank = int(os.environ["RANK"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{chosen.store}", rank=rank, world_size=2, device_id=device)
    dist.barrier()

    def say(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    plugin = Plugin(chosen.library) if chosen.library else None
    say(f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}, torch {torch.__version__}, plugin {plugin is not None}")
    if plugin is not None:
        compare(plugin, chosen.calls, say)
    host_cost(plugin, say)
    torch.cuda.synchronize()
    dist.destroy_process_group()


def start_ranks(folder: Path, library: str) -> int:
    """Both ranks, with that plugin or ("") with none; the worst exit status."""
    store = folder / f"store-{len(library)}"
    command = [sys.executable, "-m", "benchmarks.nccl_profiler.probe", *sys.argv[1:], "--store", str(store)]
    command += ["--library", library] if library else []
    extra = {"NCCL_PROFILER_PLUGIN": library} if library else {}
    ranks = [subprocess.Popen(command, env={**os.environ, **extra, "RANK": str(rank)}) for rank in range(2)]
    deadline = time.monotonic() + TIMEOUT
    try:
        return max(abs(rank.wait(max(1.0, deadline - time.monotonic()))) for rank in ranks)
    except subprocess.TimeoutExpired:
        print("the ranks did not end in time")
        return 1
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=15, help="calls of each case")
    parser.add_argument("--store", help="set for the processes of the ranks, which are started from here")
    parser.add_argument("--library", default="", help="likewise")
    chosen = parser.parse_args()
    if chosen.store:
        run_rank(chosen)
        return 0
    with tempfile.TemporaryDirectory(prefix="wanhook-probe-") as folder:
        library = f"{folder}/libprobe.so"
        subprocess.check_call(["gcc", "-O2", "-Wall", "-fPIC", "-shared", "-o", library, str(HERE / "plugin.c")])
        return max(start_ranks(Path(folder), chosen) for chosen in ("", library))


if __name__ == "__main__":
    sys.exit(main())
