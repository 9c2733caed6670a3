"""Kernel intervals against Kineto's own export, and what the window costs: `python -m benchmarks.kernel_intervals`.

Two GPUs, about a minute. Two runs of two ranks each:

- WANHOOK_KERNELS=nccl: the window's profiler session is also exported as a chrome trace, which is read here without any
  of wanhook's code. For each situation of the calls (busy-alone, overlapped, idle) the kernel intervals that the trace
  file gives a collective are compared with it; |median difference| of begin, end and length is to be at most 1 us.
- the same steps with WANHOOK_KERNELS off, for the cost: steps before, in and after the window, beside the same steps.

Exits with 1 when a situation misses the 1 us, or has calls without a kernel.
"""

from __future__ import annotations

import argparse
import functools
import json
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

from . import machine

ALLOWED = 1_000  # ns
CALLS = 20  # of each situation in a step
STEPS, WINDOW = 120, 60  # the window is one of the steps, counted from 1
WARM = 10  # steps at the begin that are not counted
TIMEOUT = 240  # seconds
SITUATIONS = ("busy-alone", "overlapped", "idle")
NAMES = ("all_to_all", "all_gather", "reduce_scatter")


def operations(size: int) -> list[Callable]:
    whole = [torch.zeros(size // 2, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    half = [torch.zeros(size // 4, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    return [
        lambda: dist.all_to_all_single(whole[1], whole[0]),
        lambda: dist.all_gather_into_tensor(whole[1], half[0]),
        lambda: dist.reduce_scatter_tensor(half[1], whole[0]),
    ]


class Steps:
    """A step issues every operation in every situation, tagged with the situation."""

    def __init__(self, size: int):
        import wanhook

        self._role = wanhook.role
        self._operations = operations(size)
        self._matrix = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
        self._side = torch.cuda.Stream()

    def run(self, calls: int) -> None:
        for call in self._operations:
            for _ in range(calls):
                with self._role(SITUATIONS[0]):
                    torch.cuda._sleep(100_000)
                    call()
                with self._role(SITUATIONS[1]):
                    torch.mm(self._matrix, self._matrix)
                    with torch.cuda.stream(self._side):
                        call()
                    torch.mm(self._matrix, self._matrix)
                torch.cuda.synchronize()
                with self._role(SITUATIONS[2]):
                    call()
        torch.cuda.synchronize()


def export_too(path: Path) -> None:
    """The window's session also writes Kineto's chrome trace, after it gave its events."""
    from wanhook.integrations import kernel_window

    end = kernel_window.CudaActivities.end

    def end_and_export(self):
        result = end(self)
        self._profile.kineto_results.save(str(path))
        return result

    kernel_window.CudaActivities.end = end_and_export


def run_rank(chosen) -> None:
    rank, folder = int(os.environ["RANK"]), chosen.folder
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl", init_method=f"file://{folder.absolute()}/store", rank=rank, world_size=2, device_id=device
    )
    import wanhook

    steps, seconds = Steps(chosen.bytes), []
    steps.run(2)
    exported = folder / f"kineto-{rank}.json"
    began = time.perf_counter()
    wanhook.start(folder / "recording")
    starting = time.perf_counter() - began
    # The warm-up of CUPTI is a session too: only the window's is exported.
    export_too(exported)
    for _ in range(STEPS):
        dist.barrier()
        torch.cuda.synchronize()
        with wanhook.trace("step"):
            began = time.perf_counter()
            steps.run(CALLS)
            seconds.append(time.perf_counter() - began)
    wanhook.stop(wait=10)
    (folder / f"said-{rank}.json").write_text(json.dumps({"starting": starting, "seconds": seconds}))
    dist.destroy_process_group()


def kineto_kernels(path: Path) -> np.ndarray:
    """(begin, end) of NCCL's kernels in a chrome trace, by begin: ns since the Unix epoch (int64[n, 2])."""
    exported = json.loads(path.read_text())
    base = int(exported.get("baseTimeNanoseconds", 0))
    found = []
    for event in exported["traceEvents"]:
        if event.get("cat") == "kernel" and event["name"].startswith("nccl"):
            begin = base + round(1000 * event["ts"])
            found.append((begin, begin + round(1000 * event["dur"])))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def compare(folder: Path, rank: int) -> bool:
    """Prints one rank's differences; whether all are within what is allowed."""
    import wanhook

    trace = wanhook.load(folder / "recording").rank(rank)
    about, true = trace.meta.get("kernel_window"), kineto_kernels(folder / f"kineto-{rank}.json")
    if about is None:
        print(f"rank {rank}: there is no window: {trace.meta.get('notes')}")
        return False
    if not len(true):
        print(f"rank {rank}: there is no kernel of NCCL's in Kineto's export")
        return False
    calls, good = trace.collectives, True
    calls = calls[calls["scope"] == about["scope"]]
    for situation in SITUATIONS:
        own = calls[calls["role"] == trace.strings.index(situation)]
        seen = own[own["kernels"] == 1]
        good &= len(seen) == len(own) == CALLS * len(NAMES)
        told = np.stack([trace.clock.to_realtime(seen[name]) for name in ("kernel_begin", "kernel_end")], axis=1)
        # Its export is found by the begin; one that is not there within 10 us shows as a large difference.
        at = np.searchsorted(true[:, 0], told[:, 0])
        near = np.clip(np.stack([at - 1, at], axis=1), 0, len(true) - 1)
        best = np.abs(true[near, 0] - told[:, :1]).argmin(axis=1)
        off = told - true[near[np.arange(len(told)), best]]
        length = off[:, 1] - off[:, 0]
        medians = [float(np.median(np.abs(part))) for part in (off[:, 0], off[:, 1], length)] if len(seen) else [1e9]
        good &= max(medians) <= ALLOWED
        stream = (seen["gpu_end"] - seen["gpu_begin"]) - (seen["kernel_end"] - seen["kernel_begin"])
        print(
            f"rank {rank} {situation:10s} {len(seen)} of {len(own)} calls; "
            f"median |wanhook - Kineto| of begin, end, length "
            f"{', '.join(f'{value:.0f}' for value in medians)} ns (allowed {ALLOWED}); "
            f"stream interval - kernel interval: median {1e-3 * np.median(stream):.1f} us"
        )
    print(
        f"rank {rank} {about['nccl']} kernels of NCCL among {about['activities']} activities; "
        f"opening {about['opening'] / 1e6:.1f} ms, closing {about['closing'] / 1e6:.1f} ms (the export included)"
    )
    return bool(good)


def cost(folders: dict[str, Path]) -> None:
    for mode, folder in folders.items():
        for rank in range(2):
            said = json.loads((folder / f"said-{rank}.json").read_text())
            times = 1e3 * np.array(said["seconds"])
            before, after = times[WARM : WINDOW - 1], times[WINDOW:]
            quartiles = [np.percentile(part, [25, 50, 75]) for part in (before, after)]
            text = ["{1:.3f} [{0:.3f}, {2:.3f}]".format(*part) for part in quartiles]
            print(
                f"kernels {mode:4s} rank {rank}: start() {said['starting']:.2f} s; step, ms, median and quartiles: "
                f"before {text[0]}, step {WINDOW} {times[WINDOW - 1]:.3f}, after {text[1]}"
            )


def start_ranks(folder: Path, mode: str, chosen) -> int:
    folder.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.kernel_intervals",
        "--folder",
        str(folder),
        "--bytes",
        str(chosen.bytes),
    ]
    extra = {"WANHOOK_KERNELS": mode, "WANHOOK_KERNELS_WINDOW": f"step:{WINDOW}", "WORLD_SIZE": "2"}
    ranks = [subprocess.Popen(command, env={**os.environ, **extra, "RANK": str(rank)}) for rank in range(2)]
    deadline = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < deadline:
            codes = [rank.poll() for rank in ranks]
            if any(codes) or None not in codes:  # one that failed leaves the other waiting for it
                return int(any(codes))
            time.sleep(0.1)
        print("the ranks did not end in time")
        return 1
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=4 << 20, help="bytes a rank of each collective")
    parser.add_argument("--folder", type=Path, help="set for the processes of the ranks, which are started from here")
    parser.add_argument("--keep", type=Path, help="folder for the recordings (default: one that is deleted)")
    parser.add_argument("--again", type=Path, help="the figures of a folder that was kept; nothing is run")
    chosen = parser.parse_args()
    if chosen.folder is not None:
        run_rank(chosen)
        return 0
    with tempfile.TemporaryDirectory(prefix="wanhook-bench-") as made:
        place = chosen.again or chosen.keep or Path(made)
        folders = {mode: place / mode for mode in ("off", "nccl")}
        if chosen.again is None:
            print(machine.text(machine.describe()))
            failed = [mode for mode, folder in folders.items() if start_ranks(folder, mode, chosen)]
        else:
            failed = []
        return judge(folders, failed)


def judge(folders: dict[str, Path], failed: list[str]) -> int:
    """Print what can be said; what one run lacks does not take the other's figures away."""
    good = not failed
    print("".join(f"the run with kernels {mode} failed\n" for mode in failed), end="")
    for what in (*(functools.partial(compare, folders["nccl"], rank) for rank in range(2)), lambda: cost(folders)):
        try:
            good &= what() is not False
        except Exception as error:
            print(f"no figures: {type(error).__name__}: {error}")
            good = False
    print("pass" if good else "FAIL")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
