"""Acceptance of the zero-code way: Wan's own generate.py under `wanhook run -- torchrun ...`, and without it.

    python -m benchmarks.wan22.run_generate --wan DIR --ranks 2 --work WORK [--size tiny] [--task t2v-A14B ti2v-5B]

Needs no change to Wan: small random weights are written under WORK once, `unchanged` puts stand-ins where packages are
missing. Checked: exit status, latents, stdout and stderr of every rank after masking times and rates, every scope,
argument and collective role with its count on every rank, scope paths that are alike on all ranks, and the same exit
status when rank 1 raises or is killed, at ^C and at SIGINT. Exit status 1 on FAIL. Without a GPU it runs over gloo
(--size cpu). Wan2.1 (--task t2v-14B, --wan a checkout of it) needs xfuser 0.4.5 and yunchang for more than one rank.

Launches share nothing but the weights and the GPUs, so several may run at once (--at-once), and so may several of these
commands with another --work each.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .check_real_run import announce
from .generate_launch import BREAKS, Ended, has_terminals, launch, prepare
from .generate_verdicts import judge_break, judge_pair, judge_recording
from .sizes import SIZES
from .verdicts import Verdict

_TASKS = ("t2v-A14B", "ti2v-5B")
_TASKS_OF_WAN21 = ("t2v-14B",)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wan", type=Path, default=os.environ.get("WAN22_REPO"), help="Wan checkout (WAN22_REPO)")
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--task", nargs="+", choices=_TASKS + _TASKS_OF_WAN21, default=_TASKS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("generate-check"), help="weights, results and recordings")
    parser.add_argument("--breaks", nargs="*", choices=BREAKS, default=list(BREAKS), help="ways to fail that are tried")
    parser.add_argument("--at-once", type=int, default=1, help="launches that run at the same time (default 1)")
    parser.add_argument("--longest", type=float, default=900, help="seconds that one launch may take (default 900)")
    return parser.parse_args()


class Launches:
    """All launches of one task, begun in order, `at_once` of them at a time."""

    def __init__(self, arguments: argparse.Namespace, task: str, pool: ThreadPoolExecutor) -> None:
        self._arguments, self._task, self._pool = arguments, task, pool
        breaks = arguments.breaks if arguments.ranks > 1 else []
        self._pairs = {how: (self._begin(how, False), self._begin(how, True)) for how in ("", *breaks)}

    def _begin(self, how: str, record: bool) -> Future[Ended]:
        name = "-".join(filter(None, (how, "recorded" if record else "bare")))
        return self._pool.submit(launch, self._arguments, self._task, name, record=record, broken=how)

    def pairs(self) -> Iterator[tuple[str, Ended, Ended]]:
        """How each pair was broken ("" is not at all), the bare launch, the recorded one; as they end."""
        return ((how, bare.result(), recorded.result()) for how, (bare, recorded) in self._pairs.items())


def repeats(arguments: argparse.Namespace, task: str, bare: Ended) -> Verdict:
    """Where recording seems to have changed the latents: whether a bare launch has the same ones twice."""
    again = launch(arguments, task, "bare-again", record=False)
    same = again.latents() == bare.latents()
    return Verdict("bare launch repeats", None, "with the same latents" if same else "with other latents too")


def check(arguments: argparse.Namespace, task: str, pool: ThreadPoolExecutor) -> bool:
    """Whether the task passes; prints every verdict."""
    began, passed = time.monotonic(), True
    print(f"{task}, {arguments.size}, {arguments.ranks} ranks", flush=True)
    prepare(arguments, task)
    print(f"weights there after {time.monotonic() - began:.0f} s", flush=True)
    for how, bare, recorded in Launches(arguments, task, pool).pairs():
        if how:
            verdicts = [judge_break(how, bare, recorded, arguments.ranks)]
        else:
            verdicts = judge_pair(bare, recorded)
            if verdicts[0].passed and not verdicts[1].passed:
                verdicts.append(repeats(arguments, task, bare))
            if recorded.status == 0:
                verdicts += judge_recording(recorded, task, SIZES[arguments.size], arguments.ranks)
        announce(verdicts)
        print(f"      launches of {bare.seconds:.0f} and {recorded.seconds:.0f} s", flush=True)
        passed &= all(verdict.passed is not False for verdict in verdicts)
    print(f"{task}: {'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return passed


def main() -> int:
    arguments = parse()
    if arguments.wan is None:
        raise SystemExit("name a checkout of Wan with --wan or WAN22_REPO")
    if "ctrl-c" in arguments.breaks and not has_terminals():
        announce([Verdict(BREAKS["ctrl-c"], None, "no pseudo-terminal can be had here")])
        arguments.breaks.remove("ctrl-c")
    arguments.wan, arguments.work = arguments.wan.resolve(), arguments.work.resolve()
    with ThreadPoolExecutor(max(arguments.at_once, 1)) as pool:
        results = [check(arguments, task, pool) for task in arguments.task]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
