"""Stream intervals beside Kineto's kernels, recorded in the same run.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.kineto_matrix --out DIR     needs 2 GPUs, about 2 minutes
    python -m benchmarks.kineto_matrix --again DIR      the same figures from the files of a run, by today's rules

Each case is an op, sync or async, on the compute or a side stream, busy, idle or beside other work, of some size; then
FSDP's forward. Prints, by case: the class that was decided, how far durations, starts and ends lie from Kineto's, and
the share of spans whose bounds hold Kineto's start and end. DIR keeps the traces, Kineto's kernels, matrix.json and
matrix.txt. A case that fails is named and left out. What a run that broke off has left can be looked at with --again.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from . import kineto_window
from .kineto_match import Case, analyse

CALLS = 30
OFTEN = 8  # cases between two calibrations
SETTLING = 2.0  # seconds of an idle GPU after the start, in which the event pair is measured


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the recording and the figures")
    parser.add_argument("--again", type=Path, help="analyse a folder that was written before; needs no GPU")
    parser.add_argument("--calls", type=int, default=CALLS, help="calls of each case")
    parser.add_argument("--ops", nargs="+", help="only these ops")
    parser.add_argument("--sizes", nargs="+", type=int, help="only these sizes, bytes")
    parser.add_argument("--seconds", type=float, default=300, help="begin no further session after that long")
    return parser.parse_args()


class Sessions:
    """Kineto's windows within one recording, and what they saw. `path`: written after each of them, so that what was
    measured outlives a later case that ends the process."""

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[tuple[int, str, int, int, int]] = []
        self._count = 0

    def run(self, *works: tuple[str, Callable[[], object]]) -> None:
        """Do each work, named for what is said when it fails; a failed one does not keep others from being done."""
        import torch

        with kineto_window.CudaWindow() as window:
            for name, work in works:
                try:
                    work()
                except Exception as error:
                    print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            torch.cuda.synchronize()
        self._rows += [(self._count, *row) for row in window.rows]
        self._count += 1
        kineto_window.save(self._path, self._rows)


def record(chosen: argparse.Namespace) -> None:
    """All cases of one rank; writes its trace file and its kernels into the folder."""
    import torch
    import torch.distributed as dist

    import wanhook

    from . import kineto_cases

    rank = int(os.environ["RANK"])
    # A case that fails on one rank alone leaves the others waiting in it.
    faulthandler.dump_traceback_later(chosen.seconds + 120, exit=True)
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    bench = kineto_cases.Bench(chosen.calls)
    ops, sizes = tuple(chosen.ops or kineto_cases.OPS), tuple(chosen.sizes or kineto_cases.SIZES)
    models = {version: kineto_cases.fsdp_model(version) for version in (1, 2)}
    for case in kineto_cases.cases(ops, sizes[:1]):
        bench.call(case)()
    for model in models.values():
        with torch.no_grad():  # no scope: outside of a recording it would begin one
            model(kineto_cases.fsdp_sample())
    torch.cuda.synchronize()
    kineto_window.warm_up()
    wanhook.start(chosen.out)
    time.sleep(SETTLING)
    sessions, began = Sessions(chosen.out / f"kernels-rank{rank}.npz"), time.monotonic()
    calibration = ("calibration", bench.calibrate)
    for version, model in models.items():
        case = fsdp_case(version)
        sessions.run(calibration, (case.role, functools.partial(kineto_cases.run_fsdp, case, model, 4)), calibration)
    for op in ops:
        late = torch.tensor([time.monotonic() - began > chosen.seconds], device="cuda", dtype=torch.int32)
        dist.all_reduce(late)
        if late.item():
            print(f"rank {rank}: no time was left from {op} on", flush=True)
            break
        own = [(case.role, functools.partial(bench.run, case)) for case in kineto_cases.cases((op,), sizes)]
        works = [each for at, one in enumerate(own) for each in ([one] if at % OFTEN else [calibration, one])]
        sessions.run(*works, calibration)
        print(f"rank {rank}: {op} done after {time.monotonic() - began:.0f} s", flush=True)
    wanhook.stop(wait=10)
    dist.barrier()
    dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


def fsdp_case(version: int) -> Case:
    return Case("fsdp all_gather", f"fsdp{version}", "side", "matmul", 2 * 4096 * 4096)


def text(found: dict) -> str:
    lines = [
        "us; ours - Kineto's, median (p5..p95); corr: after correction; inside: bounds that hold Kineto's start, end",
        f"{'case':<60} {'n':>4} {'kernel':>8} {'duration':>24} {'corr':>7} {'start':>7} {'end':>6} "
        f"{'inside':>11} {'width':>15}  classes",
    ]
    for case in found["cases"]:
        size = f"{case['size'] >> 10} KiB"
        name = f"{case['op']} {case['mode']} {case['stream']} {case['situation']} {size}"
        lines.append(f"{name:<60} {line(case)}")
    lines += [f"{'all of class ' + name:<60} {line(each)}" for name, each in found["classes"].items()]
    for rank, session in dict.fromkeys((each["rank"], each["session"]) for each in found["clocks"]):
        own = [each for each in found["clocks"] if (each["rank"], each["session"]) == (rank, session)]
        bounds = [f"{each['least_ns'] / 1e3:.1f}..{each['most_ns'] / 1e3:.1f}" for each in own]
        lines.append(f"rank {rank} session {session}: Kineto's clock - ours, at each calibration: {' '.join(bounds)}")
    for each in found["pairs"]:
        source = f"measured, of {each['timed']}" if each["measured"] else f"assumed; timed {each['timed']}"
        lines.append(f"rank {each['rank']}: an event pair costs {each['ns'] / 1e3:.2f}: {source}")
    lines += [f"not timed: {len(found['untimed'])} cases, e.g. {found['untimed'][:3]}"] if found["untimed"] else []
    lines += [f"PROBLEM {what}" for what in found["problems"]]
    for each in found["verdict"]:
        lines.append(f"{'pass' if each['passed'] else 'FAIL'} {each['value']:10.3f}  {each['what']}")
    return "\n".join(lines)


def line(each: dict) -> str:
    low, middle, high = (value / 1e3 for value in each["difference_ns"])
    classes = " ".join(f"{name}:{count}" for name, count in each["classes"].items())
    widths = f"{each['start_width_ns'] / 1e3:7.1f} {each['end_width_ns'] / 1e3:7.1f}"
    return (
        f"{each['n']:>4} {each['kernel_ns'] / 1e3:8.1f} {middle:+8.2f} ({low:+6.1f}..{high:+6.1f}) "
        f"{each['corrected_ns'] / 1e3:+7.2f} {each['start_ns'][1] / 1e3:+7.2f} {each['end_ns'][1] / 1e3:+6.2f} "
        f"{each['start_inside']:5.0%} {each['end_inside']:5.0%} {widths}  {classes}"
    )


def main() -> int:
    chosen = parse()
    if chosen.again is None:
        if chosen.out is None or "RANK" not in os.environ:
            raise SystemExit("start it with torchrun and --out DIR, or with --again DIR")
        chosen.out.mkdir(parents=True, exist_ok=True)
        record(chosen)
        if int(os.environ["RANK"]) != 0:
            return 0
    folder = chosen.again or chosen.out
    found = analyse(folder)
    (folder / "matrix.json").write_text(json.dumps(found, indent=1))
    (folder / "matrix.txt").write_text(text(found) + "\n")
    print(text(found), flush=True)
    failed = not found["cases"] or not all(each["passed"] for each in found["verdict"])
    return int(failed or bool(found["problems"]))


if __name__ == "__main__":
    raise SystemExit(main())
