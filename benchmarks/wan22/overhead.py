"""End-to-end cost of observers on Wan2.2's own generate(), interleaved in one process.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.overhead --wan DIR --size 14b --recorders scopes --out cost.json

First `--untouched` bare requests in a process that has not loaded wanhook: what it attaches to the allocator and to
c10d stays attached, with its gate closed, so that later bare requests hold that. Then `--pairs` rounds of a bare
request and one under each recorder of wanhook, before any profiler was loaded: CUPTI leaves a process slower after its
first use. Then `--peer-rounds` rounds of a bare request and one each under wanhook,
torch.profiler (minimal, full) and the memory history. The order rotates by one a round, and a ratio is taken within a
round. A time is that of the request alone, on the host clock, from all ranks ready to the last rank's GPU done;
starting an observer, stopping it and exporting are in the columns enter and exit. Peers export in the last round only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from . import expected
from .harness import Pipeline, add_arguments, build_pipeline, say, sized
from .measurement import Measured, machine, measure
from .observers import (
    Nothing,
    Recording,
    RecordingBlocks,
    RecordingStages,
    RecordingWithScopes,
    WrappersAlone,
    peers,
)
from .ratios import Ratio, paired_ratio, unpaired_ratio

# Enough to use each kernel, both experts' graphs and each observer once without paying for a whole request.
_WARM_UP_STEPS = 2
_RECORDERS = {
    "none": [],
    "plain": [Recording],
    "scopes": [RecordingWithScopes],
    "both": [Recording, RecordingWithScopes],
    "parts": [WrappersAlone, Recording, RecordingStages, RecordingBlocks, RecordingWithScopes],
}


@dataclass
class Cost:
    """One observer against the bare request of the same pair or round; seconds are medians over them."""

    observer: str
    phase: str
    ratio: Ratio
    bare_seconds: float
    seconds: float
    enter_seconds: float
    exit_seconds: float
    output_bytes: int  # of the largest rank


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--untouched", type=int, default=5, help="bare requests before wanhook is loaded")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--peer-rounds", type=int, default=4)
    parser.add_argument(
        "--recorders",
        choices=sorted(_RECORDERS),
        default="both",
        help="plain: the scope `request` alone; scopes: Wan's stages, blocks and operations too; parts: from the "
        "wrappers without a recording to all of it, to tell apart what costs; none: leave out",
    )
    return parser.parse_args()


def serve(
    pipeline: Pipeline,
    arguments: argparse.Namespace,
    kind: type[Nothing],
    label: str,
    *,
    export: bool = False,
    steps: int | None = None,
) -> Measured:
    """One measured request. Recordings of wanhook go into a folder of their own each."""
    observer = kind(arguments.runs / f"{label}-{kind.name}", pipeline.ranks.rank, export)
    return measure(pipeline, observer, arguments.seed, steps)


def interleave(
    pipeline: Pipeline, arguments: argparse.Namespace, kinds: list[type[Nothing]], rounds: int, label: str
) -> dict[str, list[tuple[Measured, Measured]]]:
    """(bare, watched) of the same round, by observer. `kinds` are the watched ones; each is warmed up first."""
    pairs = defaultdict(list)
    for kind in kinds if rounds else ():
        serve(pipeline, arguments, kind, f"{label}-warm-up", steps=_WARM_UP_STEPS)
    order = [Nothing, *kinds]
    for number in range(rounds if kinds else 0):
        shift, last = number % len(order), number == rounds - 1
        served = {
            kind: serve(pipeline, arguments, kind, f"{label}-{number}", export=last)
            for kind in order[shift:] + order[:shift]
        }
        for kind in kinds:
            pairs[kind.name].append((served[Nothing], served[kind]))
    return pairs


def cost(pipeline: Pipeline, observer: str, phase: str, pairs: list[tuple[Measured, Measured]]) -> Cost:
    """Gather the pairs of all ranks; a request took as long as on its slowest rank."""
    ranks = pipeline.ranks.gather([[asdict(bare), asdict(watched)] for bare, watched in pairs])

    def slowest(which: int, key: str) -> list[float]:
        return [max(rank[number][which][key] for rank in ranks) for number in range(len(pairs))]

    bare, watched = slowest(0, "seconds"), slowest(1, "seconds")
    return Cost(
        observer,
        phase,
        paired_ratio(watched, bare),
        statistics.median(bare),
        statistics.median(watched),
        statistics.median(slowest(1, "enter_seconds")),
        slowest(1, "exit_seconds")[-1],
        int(max(slowest(1, "output_bytes"))),
    )


def attached(
    pipeline: Pipeline, untouched: list[Measured], pairs: dict[str, list[tuple[Measured, Measured]]]
) -> list[Cost]:
    """What is there before a recording starts: bare requests of the pairs against those before wanhook was loaded."""
    later = next(iter(pairs.values()), [])
    ranks = pipeline.ranks.gather([[one.seconds for one in untouched], [bare.seconds for bare, _ in later]])
    before, after = ([max(times) for times in zip(*which, strict=True)] for which in zip(*ranks, strict=True))
    if not before or not after:
        return []
    medians = statistics.median(before), statistics.median(after)
    return [Cost("gate closed", "first", unpaired_ratio(after, before), *medians, 0.0, 0.0, 0)]


def event_counts(arguments: argparse.Namespace) -> dict:
    """What one recorded request of rank 0 holds, to multiply with the unit costs. Empty without a recording."""
    kinds = _RECORDERS[arguments.recorders]
    if not kinds or not arguments.pairs:
        return {}
    import wanhook

    counts = {}
    for kind in (kind for kind in kinds if issubclass(kind, Recording)):
        trace = wanhook.load(str(arguments.runs / f"pairs-{arguments.pairs - 1}-{kind.name}")).rank(0)
        counts[kind.name] = {
            "collectives": sum(expected.recorded_collectives(trace).values()),
            "allocator_events": len(trace.allocator_events),
            "scopes": len(trace.scopes),
            "dropped": trace.health.dropped,
            "resolver_cpu_seconds": trace.health.resolver_cpu / 1e9,
        }
    return counts


def table(costs: list[Cost]) -> str:
    """One line an observer and phase; fits 100 columns."""
    lines = [
        f"{'observer':<16} {'phase':<6} {'pairs':>5} {'bare s':>8} {'seen s':>8}  {'change [95 %]':<24}"
        f" {'enter s':>8} {'exit s':>7} {'MiB':>7}"
    ]
    for one in costs:
        lines.append(
            f"{one.observer:<16} {one.phase:<6} {one.ratio.pairs:>5} {one.bare_seconds:>8.4f} "
            f"{one.seconds:>8.4f}  {one.ratio.percent():<24} {one.enter_seconds:>8.3f} "
            f"{one.exit_seconds:>7.3f} {one.output_bytes / (1 << 20):>7.2f}"
        )
    return "\n".join(lines)


def write(pipeline: Pipeline, costs: list[Cost], events: dict, out: Path | None) -> None:
    """The costs so far as JSON."""
    if out:
        out.write_text(
            json.dumps(
                {
                    "machine": machine(pipeline.ranks),
                    "size": asdict(pipeline.size),
                    "events": events,
                    "costs": [asdict(one) for one in costs],
                },
                indent=1,
            )
        )


def main() -> int:
    arguments = parse()
    pipeline = build_pipeline(arguments.wan, sized(arguments), arguments.seed)
    ranks = pipeline.ranks
    say(ranks, f"{arguments.size} on {ranks.world_size} ranks, loaded in {pipeline.load_seconds:.1f} s")
    first = serve(pipeline, arguments, Nothing, "warm-up")
    say(ranks, f"first request {first.seconds:.2f} s")
    untouched = [serve(pipeline, arguments, Nothing, "untouched") for _ in range(arguments.untouched)]
    costs, recorders = [], _RECORDERS[arguments.recorders]
    for phase, kinds, rounds in (
        ("pairs", recorders, arguments.pairs),
        ("peers", recorders[-1:] + peers(), arguments.peer_rounds),
    ):
        served = interleave(pipeline, arguments, kinds, rounds, phase)
        if phase == "pairs":
            costs += attached(pipeline, untouched, served)
        costs += [cost(pipeline, name, phase, pairs) for name, pairs in served.items()]
        if served and ranks.rank == 0:
            print(table(costs), flush=True)
            write(pipeline, costs, {}, arguments.out)
    if ranks.rank == 0:
        counts = event_counts(arguments)
        print("rank 0, one request:", json.dumps(counts))
        write(pipeline, costs, counts, arguments.out)
    ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
