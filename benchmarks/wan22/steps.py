"""What recording costs a denoising step of Wan2.2, from runs of steps with it and without it in the same requests.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.steps --wan DIR --size tiny --seconds 180 --out steps.json

`overhead` compares whole requests. On a machine whose speed changes within a second that tells nothing below a few
percent; here what is compared lies a quarter of a second apart. Each request has runs of six steps and one, which
is left out, before each: bare, recorded, recorded, bare, or the opposite. Recorded: everything on, at level `op`.
Bare: the recording is paused and every wrapper of the integrations is off its class, module or instance. Both hold
what stays attached, with its gate closed, and the loop over the steps, which is one call a step.

A step is the host's time from its begin to the next one's. A pair is two neighbouring runs, each as long as on its
slowest rank. Meant for the launch-bound size: elsewhere the host runs ahead of the GPU, and its steps are not the GPU's.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from dataclasses import asdict

import torch

from .harness import Pipeline, add_arguments, build_pipeline, say, sized
from .measurement import machine
from .observers import RecordingWithScopes
from .ratios import Ratio, paired_ratio

RUN = 7  # steps of one sort; the first is left out: it follows the change
FIRST = 2  # steps of a request before its runs: they use each kernel for the first time
RUNS = 4
MOST_CHANGES = 900  # Python stops caching the attributes of a class that has changed a thousand times


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=180, help="how long to go on serving requests")
    return parser.parse_args()


class Wrappers:
    """The integrations' wrappers, on as found. Every place that holds one is looked up once: the integrations' own way
    of taking them off looks through all modules, which takes longer than a step."""

    def __init__(self) -> None:
        from wanhook.integrations import fsdp
        from wanhook.integrations.wan import models, wrapping

        missing = object()
        replaced = [(owner, name, now, before) for owner, name, before, now in wrapping._patches._replaced]
        functions = [(now, original) for now, original in wrapping._patches._copied.values()]
        functions += [(wrapper, original) for _, original, wrapper in fsdp._wrapped]
        for _, _, now, before in replaced:
            functions += [(now, before)] if callable(before) else []
        known = {id(now): (now, original) for now, original in functions}
        classes = {point.owner and getattr(sys.modules[point.module], point.owner) for point, _, _ in fsdp._wrapped}
        for holder in [*sys.modules.values(), *(classes - {None, ""})]:
            names = getattr(holder, "__dict__", {})
            for name, value in list(names.items()) if hasattr(names, "items") else []:
                now, original = known.get(id(value), (missing, None))
                if now is value:
                    replaced.append((holder, name, now, original))
        self._places = {(id(owner), name): (owner, name, now, before) for owner, name, now, before in replaced}
        self._modules = [each for each in models._numbered if "forward" in vars(each)]
        self._forwards = [vars(each)["forward"] for each in self._modules]

    def put(self, on: bool) -> None:
        for owner, name, now, before in self._places.values():
            if on:
                setattr(owner, name, now)
            elif callable(before) or isinstance(before, classmethod):
                setattr(owner, name, before)
            elif name in vars(owner):
                delattr(owner, name)  # inherited
        for module, forward in zip(self._modules, self._forwards, strict=True):
            if on:
                vars(module)["forward"] = forward
            else:
                vars(module).pop("forward", None)

    def __len__(self) -> int:
        return len(self._places) + len(self._modules)


class Steps:
    """Stands where Wan has its progress bar, and changes between the sorts of steps there."""

    def __init__(self) -> None:
        self.order: tuple[str, ...] = ()  # of the runs of the next request; empty: all its steps are as they come
        self.seconds: list[float] = []  # of each step of the last request
        self.wrappers: Wrappers | None = None
        self.changes = 0

    def __call__(self, timesteps, **_options):
        self.seconds = []
        for step, timestep in enumerate(timesteps):
            if self.order and step >= FIRST and (step - FIRST) % RUN == 0:
                self._change(self.order[(step - FIRST) // RUN])
            began = time.perf_counter()
            yield timestep
            self.seconds.append(time.perf_counter() - began)
        if self.order:
            self._change("recorded")

    def runs(self) -> list[tuple[str, float]]:
        """Of the last request: the sort of each run, and the mean seconds of its steps but for the first."""
        lengths = [self.seconds[first + 1 : first + RUN] for first in range(FIRST, FIRST + RUNS * RUN, RUN)]
        return [(sort, sum(each) / len(each)) for sort, each in zip(self.order, lengths, strict=True)]

    def _change(self, sort: str) -> None:
        import wanhook

        if self.wrappers is None:
            self.wrappers = Wrappers()
        self.wrappers.put(sort != "recorded")  # both ways each time: a class that has changed is slow for a moment
        self.wrappers.put(sort == "recorded")
        self.changes += 2
        wanhook.pause()
        if sort == "recorded":
            wanhook.resume()


def serve(pipeline: Pipeline, steps: Steps, chosen: argparse.Namespace, label: str, order: tuple[str, ...]) -> None:
    gc.collect()
    pipeline.ranks.synchronize()
    steps.order, steps.wrappers = order, None
    with RecordingWithScopes(chosen.runs / label, pipeline.ranks.rank):
        pipeline.generate(chosen.seed, FIRST + RUN * RUNS)
        if torch.cuda.is_available():
            torch.cuda.synchronize(pipeline.ranks.device)


def compared(ranks: list[list[list]]) -> tuple[Ratio, float]:
    """`ranks`: of each rank, of each request, its runs. Recorded over bare, and the median bare step in seconds."""
    recorded, bare = [], []
    for request in zip(*ranks, strict=True):
        runs = [(each[0][0], max(seconds for _, seconds in each)) for each in zip(*request, strict=True)]
        for pair in (dict(runs[:2]), dict(runs[2:])):
            recorded.append(pair["recorded"])
            bare.append(pair["bare"])
    return paired_ratio(recorded, bare), sorted(bare)[len(bare) // 2]


def main() -> int:
    chosen = parse()
    pipeline = build_pipeline(chosen.wan, sized(chosen), chosen.seed)
    steps = Steps()
    sys.modules["wan.text2video"].tqdm = steps
    orders = ("bare", "recorded", "recorded", "bare"), ("recorded", "bare", "bare", "recorded")
    chance = random.Random(chosen.seed)  # alike on all ranks
    for _ in range(2):
        serve(pipeline, steps, chosen, "warm-up", ())
    requests: list[list[tuple[str, float]]] = []
    began, ranks, places = time.monotonic(), [], 0
    while True:
        serve(pipeline, steps, chosen, f"request-{len(requests)}", chance.choice(orders))
        requests.append(steps.runs())
        places = len(steps.wrappers)
        late = time.monotonic() - began > chosen.seconds or steps.changes > MOST_CHANGES
        over = any(pipeline.ranks.gather(late))
        if over or len(requests) % 20 == 0:
            ranks = pipeline.ranks.gather(requests)
            ratio, bare = compared(ranks)
            say(
                pipeline.ranks,
                f"{chosen.size}: {ratio.pairs} pairs of runs of {RUN - 1} steps, {places} places wrapped, "
                f"bare step {1e3 * bare:.2f} ms, recorded {ratio.percent()}",
            )
        if over:
            break
    if chosen.out and pipeline.ranks.rank == 0:
        result = {"machine": machine(pipeline.ranks), "ratio": asdict(ratio), "bare_step_seconds": bare, "runs": ranks}
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    pipeline.ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
