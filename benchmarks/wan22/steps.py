"""What recording costs a denoising step of Wan2.2, from steps with it and without it in the same requests.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.steps --wan DIR --size tiny --seconds 180 --out steps.json

`overhead` compares whole requests. On a machine whose speed changes within a second that tells nothing below a few
percent; here what is compared lies a quarter of a second apart. Each request has runs of six steps and one, which
is left out, before each: bare, recorded, recorded, bare, or the opposite. Recorded: everything on, at level `op`.
Bare: the recording is paused and every wrapper of the integrations is off its class, module or instance. Both hold
what stays attached, with its gate closed, and the loop over the steps, which is one call a step.

With `--parts` the recorder leaves out one of its parts in each step, another one in the next: what a part costs from
end to end is how much longer the steps with everything are. The wrappers stay on. That needs the build for profiling,
`CFLAGS=-DWANHOOK_PROFILE_HOOKS python3 setup.py build_ext --inplace`, whose own clock readings are in every step.

A step is the host's time from its begin to the next one's, on the slowest rank. Meant for the launch-bound size:
elsewhere the host runs ahead of the GPU, and its steps are not the GPU's.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from .harness import Pipeline, add_arguments, build_pipeline, say, sized
from .measurement import machine
from .observers import RecordingWithScopes
from .ratios import paired_ratio

FIRST = 2  # steps of a request before any that counts: they use each kernel for the first time
RUN = 7  # steps of one sort; the first does not count: it follows the change
ORDERS = ("bare", "recorded", "recorded", "bare"), ("recorded", "bare", "bare", "recorded")
MOST_CHANGES = 900  # Python stops caching the attributes of a class that has changed a thousand times
# Bits of LeftOut in csrc/core/hook_profile.h.
PARTS = {"everything": 0, "no GPU events": 1, "no allocator": 2, "no collectives": 4, "no scopes": 8, "nothing": 15}
BLOCKS = 5  # of one step with each part left out, in a request


@dataclass(frozen=True)
class Planned:
    """A step: what sort it is, whether it is the first of its sort, and whether it counts."""

    sort: str
    first: bool
    counts: bool


def plan_runs(order: Iterable[str]) -> list[Planned]:
    return [Planned(sort, step == 0, step > 0) for sort in order for step in range(RUN)]


def plan_parts(chance: random.Random) -> list[Planned]:
    return [Planned(sort, True, True) for _ in range(BLOCKS) for sort in chance.sample(list(PARTS), len(PARTS))]


class Wrappers:
    """The integrations' wrappers, on as found. Every place that holds one is looked up once: the integrations' own way
    of taking them off looks through all modules, which takes longer than a step."""

    def __init__(self) -> None:
        from wanhook.integrations import fsdp
        from wanhook.integrations.wan import models, wrapping

        places = [(owner, name, now, before) for owner, name, before, now in wrapping._patches._replaced]
        wraps = [(now, before) for _, _, now, before in places if _is_own(before)]
        wraps += [*wrapping._patches._copied.values(), *((each[2], each[1]) for each in fsdp._wrapped)]
        known = {id(now): (now, before) for now, before in wraps}
        classes = [getattr(sys.modules[point.module], point.owner) for point, _, _ in fsdp._wrapped if point.owner]
        for holder in [*sys.modules.values(), *classes]:
            names = getattr(holder, "__dict__", None)
            for name, value in list(names.items()) if hasattr(names, "items") else ():
                now, before = known.get(id(value), (None, None))
                if now is not None and now is value:
                    places.append((holder, name, now, before))
        self._places = {(id(owner), name): (owner, name, now, before) for owner, name, now, before in places}
        self._forwards = [(vars(each), vars(each)["forward"]) for each in models._numbered if "forward" in vars(each)]

    def put(self, on: bool) -> None:
        for owner, name, now, before in self._places.values():
            if on or _is_own(before):
                setattr(owner, name, now if on else before)
            elif name in vars(owner):
                delattr(owner, name)  # it was inherited
        for variables, forward in self._forwards:
            variables.pop("forward", None)
            if on:
                variables["forward"] = forward


def _is_own(before: object) -> bool:
    """Whether a class or module had the attribute itself."""
    return callable(before) or isinstance(before, classmethod)


class Steps:
    """Stands where Wan has its progress bar. `change` is called with the sort of the steps that follow."""

    def __init__(self) -> None:
        self.plan: list[Planned] = []  # of the next request's steps, from FIRST on
        self.change: Callable[[str], None] = lambda _sort: None
        self.counted: list[tuple[str, float]] = []  # sort and seconds

    def __call__(self, timesteps, **_options):
        self.counted = []
        for planned, timestep in zip([None] * FIRST + self.plan, timesteps, strict=True):
            if planned is not None and planned.first:
                self.change(planned.sort)
            began = time.perf_counter()
            yield timestep
            if planned is not None and planned.counts:
                self.counted.append((planned.sort, time.perf_counter() - began))


class Switch:
    """Bare steps and recorded ones. Made for each request, whose wrappers are new."""

    changes = 0

    def __init__(self) -> None:
        self._wrappers: Wrappers | None = None

    def __call__(self, sort: str) -> None:
        import wanhook

        self._wrappers = self._wrappers or Wrappers()
        self._wrappers.put(sort == "bare")  # both ways each time: a class that has changed is slow for a moment
        self._wrappers.put(sort != "bare")
        Switch.changes += 2
        wanhook.pause()
        if sort != "bare":
            wanhook.resume()


def leave_out(sort: str) -> None:
    from wanhook._native import load

    native = load()
    if not hasattr(native, "leave_out"):
        raise SystemExit("steps --parts: build with CFLAGS=-DWANHOOK_PROFILE_HOOKS first")
    native.leave_out(PARTS[sort])


def serve(pipeline: Pipeline, steps: Steps, plan: list[Planned], chosen: argparse.Namespace, label: str) -> None:
    gc.collect()
    pipeline.ranks.synchronize()
    steps.plan = plan
    steps.change = leave_out if chosen.parts else Switch()
    with RecordingWithScopes(chosen.runs / label, pipeline.ranks.rank):
        pipeline.generate(chosen.seed, FIRST + len(plan))
        steps.change("everything" if chosen.parts else "recorded")
        if torch.cuda.is_available():
            torch.cuda.synchronize(pipeline.ranks.device)


def slowest(ranks: list[list[list]]) -> list[list[tuple[str, float]]]:
    """`ranks`: of each rank, of each request, its counted steps. Of each request, those of the slowest rank each."""
    return [
        [(step[0][0], max(seconds for _, seconds in step)) for step in zip(*request, strict=True)]
        for request in zip(*ranks, strict=True)
    ]


def compare_runs(requests: list[list[tuple[str, float]]]) -> list[str]:
    """One line: recorded runs over their bare neighbours."""
    sides: dict[str, list[float]] = {"bare": [], "recorded": []}
    for request in requests:
        for first in range(0, len(request), RUN - 1):
            run = request[first : first + RUN - 1]
            sides[run[0][0]].append(statistics.fmean(seconds for _, seconds in run))
    ratio = paired_ratio(sides["recorded"], sides["bare"])
    bare = 1e3 * statistics.median(sides["bare"])
    return [f"{ratio.pairs} pairs of runs of {RUN - 1} steps, bare step {bare:.2f} ms, recorded {ratio.percent()}"]


def compare_parts(requests: list[list[tuple[str, float]]]) -> list[str]:
    """A line for each part: steps with everything over those without it, block by block."""
    blocks = [dict(each[at : at + len(PARTS)]) for each in requests for at in range(0, len(each), len(PARTS))]
    everything = [block["everything"] for block in blocks]
    median = 1e3 * statistics.median(everything)
    lines = [f"{len(blocks)} blocks of {len(PARTS)} steps, {median:.2f} ms with everything"]
    for part in list(PARTS)[1:]:
        without = [block[part] for block in blocks]
        more = 1e6 * statistics.median(a - b for a, b in zip(everything, without, strict=True))
        lines.append(f"everything over {part:<14} {more:>+7.0f} us  {paired_ratio(everything, without).percent()}")
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=180, help="how long to go on serving requests")
    parser.add_argument("--parts", action="store_true", help="leave out one part of the recorder a step")
    return parser.parse_args()


def main() -> int:
    chosen = parse()
    pipeline = build_pipeline(chosen.wan, sized(chosen), chosen.seed)
    ranks, steps = pipeline.ranks, Steps()
    sys.modules["wan.text2video"].tqdm = steps
    chance = random.Random(chosen.seed)  # alike on all ranks
    compare = compare_parts if chosen.parts else compare_runs

    def plan() -> list[Planned]:
        return plan_parts(chance) if chosen.parts else plan_runs(chance.choice(ORDERS))

    for number in range(2):
        serve(pipeline, steps, plan(), chosen, f"warm-up-{number}")
    requests: list[list[tuple[str, float]]] = []
    began, over, everyone = time.monotonic(), False, []
    while not over:
        serve(pipeline, steps, plan(), chosen, f"request-{len(requests)}")
        requests.append(steps.counted)
        over = any(ranks.gather(time.monotonic() - began > chosen.seconds or Switch.changes > MOST_CHANGES))
        if over or len(requests) % 20 == 0:
            everyone = ranks.gather(requests)
            say(ranks, "\n".join([f"{chosen.size}, {len(requests)} requests", *compare(slowest(everyone))]))
    if chosen.out and ranks.rank == 0:
        result = {"machine": machine(ranks), "parts": chosen.parts, "steps": everyone}
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
