"""What tips the reserved peak of a request: `torchrun --nproc-per-node 2 -m benchmarks.wan22.peak_race --wan DIR`.

FSDP1 copies a unit's shard on one stream while the gather of the last one still reads its own on another, so the first
forward asks for a third shard's memory or for the second's, whichever comes first: the host, or the end of that gather.
The script serves requests that follow at once and requests after half a second, unrecorded, recorded, and unrecorded
with a host that spins for a few microseconds before each collective, in turn, and counts the peaks of each kind.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

from .harness import Pipeline, add_arguments, build_pipeline, say, sized
from .measurement import measure
from .observers import Nothing, Recording, RecordingWithScopes

_MIB = 1 << 20


@contextmanager
def _late(owner, name: str, microseconds: int):
    """The host spins before each call of a function."""
    function = getattr(owner, name)

    def late(*args, **kwargs):
        until = time.perf_counter_ns() + microseconds * 1000
        while time.perf_counter_ns() < until:
            pass
        return function(*args, **kwargs)

    setattr(owner, name, late)
    try:
        yield
    finally:
        setattr(owner, name, function)


class Delay(Nothing):
    """No recorder: only time on the host, before each all_to_all and each all_gather of FSDP."""

    microseconds = 5

    def __enter__(self):
        import torch.distributed.fsdp._flat_param as flat_param
        import wan.distributed.ulysses as ulysses

        self._stack = ExitStack()
        self._stack.enter_context(_late(ulysses, "all_to_all", self.microseconds))
        self._stack.enter_context(_late(flat_param.FlatParamHandle, "_all_gather_flat_param", self.microseconds))
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)


class LongDelay(Delay):
    microseconds = 20


KINDS = {  # what is printed: (observer, idle seconds before)
    "unrecorded, at once": (Nothing, 0.0),
    "recorded, at once": (Recording, 0.0),
    "recorded with scopes, at once": (RecordingWithScopes, 0.0),
    "unrecorded, 5 us before each collective, at once": (Delay, 0.0),
    "unrecorded, 20 us before each collective, at once": (LongDelay, 0.0),
    "unrecorded, after a pause": (Nothing, 0.5),
    "recorded, after a pause": (Recording, 0.5),
    "recorded with scopes, after a pause": (RecordingWithScopes, 0.5),
}


def serve(pipeline: Pipeline, arguments: argparse.Namespace) -> dict[str, list[int]]:
    """Reserved peaks (bytes) of this rank by kind, one a round."""
    peaks: dict[str, list[int]] = {name: [] for name in KINDS}
    names = list(KINDS)
    for observer in (Nothing, RecordingWithScopes):
        measure(pipeline, observer(arguments.runs / "warm-up", pipeline.ranks.rank), arguments.seed)
    for number in range(arguments.rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            observer, pause = KINDS[name]
            folder = arguments.runs / f"{number}-{names.index(name)}"
            done = measure(pipeline, observer(folder, pipeline.ranks.rank), arguments.seed, pause=pause)
            peaks[name].append(done.reserved_peak)
    return peaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    pipeline = build_pipeline(arguments.wan, sized(arguments), arguments.seed)
    everyone = pipeline.ranks.gather(serve(pipeline, arguments))
    for name in KINDS:
        counted = Counter(peak for rank in everyone for peak in rank[name])
        listed = ", ".join(f"{peak / _MIB:.0f} MiB x {count}" for peak, count in sorted(counted.items()))
        say(pipeline.ranks, f"{name:<50} {listed}")
    pipeline.ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
