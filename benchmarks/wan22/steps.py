"""What recording costs a denoising step of Wan2.2, from steps with it and without it in the same requests.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.steps --wan DIR --size tiny --seconds 180 --out steps.json

`overhead` compares whole requests. On a machine whose speed changes within a second that tells nothing below a few
percent; here what is compared lies a few steps apart. A request is made of blocks of one step of each sort, in an order
that chance picks. `recorded`: everything on, at level `op`. `paused`: the wrappers of the integrations are on and the
gate is closed. `bare`: so it is, and every wrapper is off its class, module or instance. All hold what stays attached,
with its gate closed, and the loop over the steps, which is one call a step. Before each step of any sort the wrappers
go off and on, the gate opens and closes, and the recorder's thread gets time to finish, so that all begin alike.

With `--parts` there are steps as well in which the recorder leaves out one of its parts, or all. That needs a build
that can, `CFLAGS=-DWANHOOK_LEAVE_OUT python3 setup.py build_ext --inplace`.

On GPUs that compute nothing it needs none and is sharper, most of all with one rank, which waits for nobody:

    PYTHONPATH=tests python -m made_gpu --run torchrun -m benchmarks.wan22.steps --wan DIR --size tiny

A step is the host's time from its begin to the next one's, on the slowest rank. Meant for the launch-bound size:
elsewhere the host runs ahead of the GPU, and its steps are not the GPU's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from wanhook._native import load

from . import made_up
from .harness import Pipeline, add_arguments, build_pipeline, say, sized
from .measurement import machine
from .observers import Nothing, RecordingWithScopes
from .ratios import paired_ratio

FIRST = 2  # steps of a request before any that counts: they use each kernel for the first time
MOST = 84  # that count, in a request; Wan's solver fails with some numbers of steps from 92 on
# Changes of a class after which Python stops caching its attributes, with some room (3.12: of all classes).
MOST_CHANGES = 6000 if sys.version_info < (3, 13) else 900
SETTLING = 0.025  # seconds before each step, in which the recorder's thread does what the last one left to it
BARE, PAUSED, RECORDED = "bare", "paused", "recorded"
# Bits of LeftOut in csrc/core/hook_profile.h.
PARTS = {"GPU events": 1, "allocator": 2, "collectives": 4, "scopes": 8, "resolver": 16, "anything": 31}


def without(part: str) -> str:
    return f"no {part}"


def plan(sorts: Sequence[str], chance: random.Random) -> list[str]:
    """The sort of each step of a request, from FIRST on."""
    return [sort for _ in range(MOST // len(sorts)) for sort in chance.sample(sorts, len(sorts))]


class Wrappers:
    """The integrations' wrappers, on as found. Every place that holds one is looked up once: the integrations' own way
    of taking them off looks through all modules, which takes longer than a step."""

    def __init__(self, earlier: Wrappers | None = None) -> None:
        from wanhook.integrations import fsdp
        from wanhook.integrations.wan import models, wrapping

        if earlier is not None:
            earlier.put(True)
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
        self._numbered = len(models._numbered)
        forwards = [(vars(each), vars(each).get("forward")) for each in models._numbered]
        # Wan gives its models a forward of their own too, for Ulysses: that one stays.
        self._forwards = [each for each in forwards if getattr(each[1], "__func__", None) is models._ffn_forward]

    def misses_some(self) -> bool:
        """Whether a model had its first forward since, and so its own wrappers: an expert has it in the steps."""
        from wanhook.integrations.wan import models

        return len(models._numbered) != self._numbered

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
    """Stands where Wan has its progress bar. `change` is called with the sort of the step that follows."""

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.change: Callable[[str], None] = lambda _sort: None
        self.counted: list[tuple[str, float]] = []  # sort and seconds

    def __call__(self, timesteps, **_options):
        self.counted = []
        for sort, timestep in zip([None] * FIRST + self.plan, timesteps, strict=True):
            if sort is not None:
                self.change(sort)
            began = time.perf_counter()
            yield timestep
            if sort is not None:
                self.counted.append((sort, time.perf_counter() - began))


class Switch:
    """To the sort of the next step. Made for each request, whose wrappers are new."""

    changes = 0

    def __init__(self) -> None:
        self._wrappers: Wrappers | None = None
        self._leave_out = getattr(load(), "leave_out", lambda _parts: None)

    def __call__(self, sort: str) -> None:
        import wanhook

        self._leave_out(0)
        if self._wrappers is None or self._wrappers.misses_some():
            self._wrappers = Wrappers(self._wrappers)
        self._wrappers.put(sort == BARE)  # both ways each time: a class that has changed is slow for a moment
        self._wrappers.put(sort != BARE)
        Switch.changes += 1  # one: nothing is looked up in between
        wanhook.pause()
        wanhook.resume()  # the allocator's state is written
        time.sleep(SETTLING)
        if sort in (BARE, PAUSED):
            wanhook.pause()
        self._leave_out(next((bits for part, bits in PARTS.items() if sort == without(part)), 0))


def serve(pipeline: Pipeline, steps: Steps, sorts: list[str], chosen: argparse.Namespace, label: str) -> str:
    """Digest of the latents."""
    gc.collect()
    pipeline.ranks.synchronize()
    steps.plan, steps.change = sorts, Switch() if label else lambda _sort: None
    observer = RecordingWithScopes if label else Nothing
    with observer(chosen.runs / label, pipeline.ranks.rank):
        pipeline.generate(chosen.seed, FIRST + len(sorts))
        steps.change(RECORDED)
        if torch.cuda.is_available():
            torch.cuda.synchronize(pipeline.ranks.device)
    return pipeline.latents_digest()


def slowest(ranks: list[list[list]]) -> list[list[tuple[str, float]]]:
    """`ranks`: of each rank, of each request, its counted steps. Of each request, those of the slowest rank each."""
    return [
        [(step[0][0], max(seconds for _, seconds in step)) for step in zip(*request, strict=True)]
        for request in zip(*ranks, strict=True)
    ]


def compare(requests: list[list[tuple[str, float]]], sorts: Sequence[str]) -> list[str]:
    """Every sort over the bare steps of its blocks, and what each part costs: recorded steps over those without it."""
    blocks = [dict(each[at : at + len(sorts)]) for each in requests for at in range(0, len(each), len(sorts))]
    times = {sort: [block[sort] for block in blocks] for sort in sorts}
    lines = [f"{len(blocks)} blocks of {len(sorts)} steps, {1e3 * statistics.median(times[BARE]):.2f} ms bare"]

    def over(which: str, base: str) -> None:
        more = 1e6 * statistics.median(a - b for a, b in zip(times[which], times[base], strict=True))
        ratio = paired_ratio(times[which], times[base])
        lines.append(f"{which:<8} over {base:<14} {more:>+7.0f} us  {ratio.percent()}")

    for sort in sorts:
        if sort != BARE:
            over(*((RECORDED, sort) if sort not in (PAUSED, RECORDED) else (sort, BARE)))
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=180, help="how long to go on serving requests")
    parser.add_argument("--parts", action="store_true", help="steps without one part of the recorder too")
    chosen = parser.parse_args()
    if chosen.parts and not hasattr(load(), "leave_out"):
        parser.error("build with CFLAGS=-DWANHOOK_LEAVE_OUT python3 setup.py build_ext --inplace first")
    return chosen


def main() -> int:
    chosen = parse()
    if "MADE_GPU_SHARED" in os.environ:
        made_up.patch()
    pipeline = build_pipeline(chosen.wan, sized(chosen), chosen.seed)
    ranks, steps = pipeline.ranks, Steps()
    sys.modules["wan.text2video"].tqdm = steps
    chance = random.Random(chosen.seed)  # alike on all ranks
    sorts = [BARE, PAUSED, RECORDED, *(map(without, PARTS) if chosen.parts else ())]
    digest = serve(pipeline, steps, plan(sorts, chance), chosen, "")
    for number in range(2):
        serve(pipeline, steps, plan(sorts, chance), chosen, f"warm-up-{number}")
    requests: list[list[tuple[str, float]]] = []
    began, over, everyone = time.monotonic(), False, []
    while not over:
        if serve(pipeline, steps, plan(sorts, chance), chosen, f"request-{len(requests)}") != digest:
            raise SystemExit("steps: the steps of some sort do not compute what an unwatched request does")
        requests.append(steps.counted)
        spent = time.monotonic() - began > chosen.seconds or Switch.changes > MOST_CHANGES - MOST
        over = any(ranks.gather(spent))
        if over or len(requests) % 20 == 0:
            everyone = ranks.gather(requests)
            say(ranks, "\n".join([f"{chosen.size}, {len(requests)} requests", *compare(slowest(everyone), sorts)]))
    if chosen.out and ranks.rank == 0:
        result = {"machine": machine(ranks), "sorts": sorts, "steps": everyone}
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
