"""Acceptance: recording Wan2.2's own generate() changes nothing but the presence of a trace, and the trace is complete.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.check_real_run --wan DIR --size 14b --runs runs --out check.json

After an unrecorded and a recorded warm-up, `--pairs` recorded and as many unrecorded requests of the same seed run
interleaved, each after `--pause` idle seconds. Checked on every rank: equal latents, equal allocated peak, a reserved
peak within the range of the unrecorded requests (of all ranks), no context on another rank's GPU, collectives as
derived in `expected`, allocator events as torch itself counted them, and a replay of these events that equals torch's
counters at the edges of all stages and steps. The last recording stays in RUNS/recorded-N for the report.
`--no-record` runs the harness alone. Exit status 1 on FAIL.

FSDP1 frees through record_stream, so the reserved peak depends on a race between host and GPU and takes one of a few
values, recorded or not: whether the host asks for the next shard before or after the GPU has gathered the last one. How
long the machine was idle before tips it as much as five microseconds a collective do, so requests that follow at once
show a part of these values only; a pause, as between the requests of users, shows them all. Ranks do the same work, and
their values are taken together. Under CUDA_LAUNCH_BLOCKING=1 there is no race, and recorded and unrecorded peaks must
be equal.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from .contexts import foreign_contexts
from .harness import Pipeline, Ranks, add_arguments, build_pipeline, say, sized
from .measurement import Measured, machine, measure
from .observers import Nothing, Recording, RecordingWithScopes
from .verdicts import Verdict, judge_recordings, judge_replays, judge_requests

_MIB = 1 << 20
_WORDS = {True: "PASS", False: "FAIL", None: "n/a "}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.5, help="idle seconds before each request (default 0.5)")
    parser.add_argument("--no-record", action="store_true", help="leave wanhook out: only the harness is tried")
    parser.add_argument("--no-scopes", action="store_true", help="record `request` alone, without scopes and roles")
    return parser.parse_args()


def run_requests(pipeline: Pipeline, arguments: argparse.Namespace) -> list[Measured]:
    """Two warm-ups, one of them recorded, then the pairs; which of a pair comes first alternates. The results of the
    warm-ups are left out: the first request takes other paths, and the first recording attaches the hooks."""
    rank = pipeline.ranks.rank
    recorder = Nothing if arguments.no_record else Recording if arguments.no_scopes else RecordingWithScopes
    for observer in (Nothing, recorder):
        measure(pipeline, observer(arguments.runs / "warm-up", rank), arguments.seed)
    results = []
    for pair in range(arguments.pairs):
        order = (Nothing, recorder) if pair % 2 == 0 else (recorder, Nothing)
        for observer in order:
            folder = arguments.runs / f"recorded-{pair}"
            results.append(measure(pipeline, observer(folder, rank), arguments.seed, pause=arguments.pause))
            say(pipeline.ranks, _line(results[-1]))
    return results


def _line(result: Measured) -> str:
    return (
        f"{result.observer:<15} {result.seconds:8.3f} s  enter {result.enter_seconds:6.3f}  exit "
        f"{result.exit_seconds:6.3f}  allocated {result.allocated_peak / _MIB:10.3f} MiB  reserved "
        f"{result.reserved_peak / _MIB:10.3f} MiB  latents {result.latents[:12]}"
    )


def context_verdict(ranks: Ranks) -> list[Verdict]:
    """Every rank must call it."""
    if ranks.device.type != "cuda":
        return []
    problems, source = foreign_contexts(ranks)
    return [Verdict("no context on another GPU", not problems, "; ".join(problems) or f"asked: {source}")]


def announce(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        print(f"{_WORDS[verdict.passed]}  {verdict.name:<26} {verdict.detail}", flush=True)


def write(pipeline: Pipeline, verdicts: list[Verdict], requests: list[list[Measured]], out: Path | None) -> None:
    """Everything that was measured, as JSON."""
    if out:
        out.write_text(
            json.dumps(
                {
                    "machine": machine(pipeline.ranks),
                    "size": asdict(pipeline.size),
                    "load_seconds": pipeline.load_seconds,
                    "verdicts": [asdict(verdict) for verdict in verdicts],
                    "requests": [[asdict(one) for one in rank] for rank in requests],
                },
                indent=1,
            )
        )


def main() -> int:
    arguments = parse()
    pipeline = build_pipeline(arguments.wan, sized(arguments), arguments.seed)
    ranks = pipeline.ranks
    say(ranks, f"{arguments.size} on {ranks.world_size} ranks, loaded in {pipeline.load_seconds:.1f} s")
    results = run_requests(pipeline, arguments)
    requests = [[Measured(**one) for one in rank] for rank in ranks.gather([asdict(one) for one in results])]
    verdicts = judge_requests(requests) + context_verdict(ranks)
    if ranks.rank == 0:
        announce(verdicts)
        # Written twice: what was measured must survive a recording that cannot be read.
        write(pipeline, verdicts, requests, arguments.out)
        if not arguments.no_record:
            folders = [arguments.runs / f"recorded-{pair}" for pair in range(arguments.pairs)]
            of_recordings = judge_recordings(folders, pipeline.size, requests, roles=not arguments.no_scopes)
            on_gpu = bool(requests[0][0].allocated_peak)
            of_recordings.append(judge_replays(folders, on_gpu=on_gpu))
            announce(of_recordings)
            verdicts += of_recordings
            write(pipeline, verdicts, requests, arguments.out)
    ranks.leave()
    return int(any(verdict.passed is False for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
