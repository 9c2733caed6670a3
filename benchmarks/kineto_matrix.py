"""Stream intervals beside Kineto's kernels, recorded in the same run.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.kineto_matrix --out DIR     needs 2 GPUs, about 2 minutes
    python -m benchmarks.kineto_matrix --again DIR      the same figures from the files of a run, by today's rules

Each case is an op, sync or async, on the compute or a side stream, busy, idle or beside other work, of some size; then
FSDP's forward. Prints, by case: the class that was decided, how far durations, starts and ends lie from Kineto's, and
the share of spans whose bounds hold Kineto's start and end. DIR keeps the traces, Kineto's kernels and matrix.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from .kineto_match import Case, analyse

CALLS = 30


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the recording and the figures")
    parser.add_argument("--again", type=Path, help="analyse a folder that was written before; needs no GPU")
    parser.add_argument("--calls", type=int, default=CALLS, help="calls of each case")
    parser.add_argument("--ops", nargs="+", help="only these ops")
    parser.add_argument("--sizes", nargs="+", type=int, help="only these sizes, bytes")
    parser.add_argument("--seconds", type=float, default=300, help="begin no further session after that long")
    return parser.parse_args()


def kineto_rows(profiler) -> list[tuple[str, int, int, int]]:
    """(name, stream, start, end) of each GPU activity. The raw events: torch's own event tree takes minutes."""
    from torch.autograd import DeviceType

    events = profiler.profiler.kineto_results.events()
    return [
        (event.name(), event.device_resource_id(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == DeviceType.CUDA and event.duration_ns() > 0
        # Annotations cover kernels and are none.
        and not event.is_user_annotation() and not event.name().startswith("nccl:")
    ]  # fmt: skip


class Sessions:
    """Kineto's windows within one recording, and what they saw."""

    def __init__(self):
        self._rows: list[tuple[int, str, int, int, int]] = []
        self._count = 0

    def run(self, work) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            work()
            torch.cuda.synchronize()
        self._rows += [(self._count, *row) for row in kineto_rows(profiler)]
        self._count += 1

    def save(self, path: Path) -> None:
        sessions, names, streams, starts, ends = zip(*self._rows, strict=True)
        known = sorted(set(names))
        number = {name: at for at, name in enumerate(known)}
        columns = {"session": sessions, "stream": streams, "start": starts, "end": ends}
        arrays = {key: np.array(values, np.int64) for key, values in columns.items()}
        np.savez_compressed(path, names=np.array(known), name=np.array([number[name] for name in names]), **arrays)


def record(chosen: argparse.Namespace) -> None:
    """All cases of one rank; writes its trace file and its kernels into the folder."""
    import torch
    import torch.distributed as dist

    import wanhook

    from . import kineto_cases

    rank = int(os.environ["RANK"])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    bench = kineto_cases.Bench(chosen.calls)
    ops, sizes = tuple(chosen.ops or kineto_cases.OPS), tuple(chosen.sizes or kineto_cases.SIZES)
    models = {version: kineto_cases.fsdp_model(version) for version in (1, 2)}
    for case in kineto_cases.cases(ops, sizes[:1]):
        bench.call(case)()
    for version, model in models.items():
        kineto_cases.run_fsdp(fsdp_case(version), model, 1)
    torch.cuda.synchronize()
    wanhook.start(chosen.out)
    sessions, began = Sessions(), time.monotonic()
    for op in ops:
        own = list(kineto_cases.cases((op,), sizes))
        late = torch.tensor([time.monotonic() - began > chosen.seconds], device="cuda", dtype=torch.int32)
        dist.all_reduce(late)
        if late.item():
            break
        sessions.run(lambda own=own: (bench.calibrate(), [bench.run(case) for case in own]))
    for version, model in models.items():
        work = lambda v=version, m=model: (bench.calibrate(), kineto_cases.run_fsdp(fsdp_case(v), m, 4))  # noqa: E731
        sessions.run(work)
    wanhook.stop(wait=10)
    sessions.save(chosen.out / f"kernels-rank{rank}.npz")
    dist.barrier()
    dist.destroy_process_group()


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
    for each in found["clocks"]:
        low, high = each["least_ns"] / 1e3, each["most_ns"] / 1e3
        lines.append(f"rank {each['rank']} session {each['session']}: Kineto's clock - ours {low:.1f} to {high:.1f}")
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
    print(text(found), flush=True)
    return int(not all(each["passed"] for each in found["verdict"]) or bool(found["problems"]))


if __name__ == "__main__":
    raise SystemExit(main())
