"""Where wanhook's host time goes inside a real request: ticks in the hooks, against what recording costs in all.

    CFLAGS=-DWANHOOK_PROFILE_HOOKS python3 setup.py build_ext --inplace
    torchrun --nproc-per-node 2 -m benchmarks.wan22.hook_profile --wan DIR --size tiny [--rounds 12]

In loops the hooks find their code and data in the caches; between two kernels of a model they do not. Rank 0's host
time in each part of a hook and of the integrations' native wrappers is printed by call and by step, of requests with a
paused recording and of recorded ones, beside the difference between recorded and bare requests of the same rounds. In
recorded requests scopes begin and end inside of wrappers. What is left of the difference is torch's own entry for a
tracker, the way into a wrapper and out of it, the wrappers in Python, and what the GPU and the other rank make of the
delays. Reading the clocks is in the difference, not in the parts.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from .harness import add_arguments, build_pipeline, say, sized
from .measurement import measure
from .observers import Nothing, RecordingWithScopes, WrappersAlone

_PARTS = (
    "allocator entry",
    "collective, before it runs",
    "collective, after",
    "scope begin",
    "scope end",
    "of these: memory sample",
    "of these: cudaEventRecord at begin",
    "of these: cudaEventRecord at end",
    "wrapper, before what it wraps",
    "wrapper, after",
)
_HOOKS = 5  # of the parts: outermost ones


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=12, help="of a bare and a recorded request each")
    return parser.parse_args()


def take(tick_period: float) -> list[np.ndarray]:
    """ns of each call of each part since the last time, the last part being the reading of the clocks alone."""
    from wanhook._native import load

    native = load()
    if not hasattr(native, "take_hook_times"):
        raise SystemExit("hook_profile: build with CFLAGS=-DWANHOOK_PROFILE_HOOKS first")
    return [np.array(ticks) * tick_period for ticks in native.take_hook_times()]


def table(rounds: list[list[np.ndarray]], steps: int) -> list[str]:
    """One line a part, over all recorded requests, without the cost of the two clock readings."""
    lines = [f"{'part':<36} {'calls a step':>13} {'ns: median':>10} {'mean':>8} {'max':>9} {'us a step':>10}"]
    total, turns = 0.0, steps * len(rounds)
    empty = np.median(np.concatenate([one[-1] for one in rounds]))
    for number, name in enumerate(_PARTS):
        spent = np.maximum(np.concatenate([one[number] for one in rounds]) - empty, 0)
        if not len(spent):
            continue
        lines.append(
            f"{name:<36} {len(spent) / turns:>13.1f} {np.median(spent):>10.0f} {spent.mean():>8.0f} {spent.max():>9.0f}"
            f" {spent.sum() / turns / 1e3:>10.1f}"
        )
        total += spent.sum() / turns / 1e3 if number < _HOOKS else 0
    lines.append(f"{'in the hooks':<79} {total:>10.1f}")
    return lines


def main() -> None:
    arguments = parse()
    pipeline = build_pipeline(arguments.wan, sized(arguments), arguments.seed)
    rank, steps = pipeline.ranks.rank, sized(arguments).steps
    measure(pipeline, Nothing(arguments.runs / "warm-up", rank), arguments.seed)
    measure(pipeline, RecordingWithScopes(arguments.runs / "warm-up", rank), arguments.seed)
    import wanhook

    run = wanhook.load(str(arguments.runs / "warm-up"))
    period = next(trace for trace in run.traces if trace.rank == rank).header["tick_period"]
    kinds = (Nothing, WrappersAlone, RecordingWithScopes)
    profiles, change = {kind: [] for kind in kinds}, []
    for number in range(arguments.rounds):
        seconds = {}
        for kind in kinds if number % 2 else reversed(kinds):
            take(period)
            folder = arguments.runs / f"{kind.name}-{number}"
            seconds[kind] = measure(pipeline, kind(folder, rank), arguments.seed).seconds
            profiles[kind].append(take(period))
        change.append(seconds)
    everyone = pipeline.ranks.gather([[one[Nothing], one[RecordingWithScopes]] for one in change])
    if rank == 0:
        slowest = [[max(pair[which] for pair in pairs) for which in (0, 1)] for pairs in zip(*everyone, strict=True)]
        bare = statistics.median(one[0] for one in slowest) / steps * 1e6
        more = statistics.median(one[1] - one[0] for one in slowest) / steps * 1e6
        for kind in (WrappersAlone, RecordingWithScopes):
            print(f"{kind.name}:", *table(profiles[kind], steps), sep="\n")
        print(f"{'recorded - bare request':<79} {more:>10.1f}  ({100 * more / bare:+.2f} % of {bare:.0f})")
    say(pipeline.ranks, "done")
    pipeline.ranks.leave()


if __name__ == "__main__":
    main()
