"""New processes to measure in: what is attached to a process stays attached, and the next one is to be without it."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

PATIENCE = 120.0  # seconds that one set of ranks may take
FAREWELL = 5.0  # seconds that one may take to end once it has answered


def in_new_processes(job: Callable[..., Any], *arguments, ranks: int = 1, patience: float = PATIENCE) -> Any:
    """What ``job(rank, *arguments)`` returns on rank 0; every rank is a process of its own, and none outlives the call,
    nor its ``patience`` (seconds) by much where the caller is killed.

    They are forked from a server that has imported torch and nothing else, which spares each a second or more; ``job``
    and what goes in and out of it must pickle. RuntimeError when a rank fails, ends early or takes too long.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    receivers, processes, answers = [], [], []
    try:
        for rank in range(ranks):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(sender, patience, job, rank, *arguments))
            process.start()
            processes.append(process)
            sender.close()  # so that the end of the process is the end of the pipe
            receivers.append(receiver)
        answers = _answers(receivers, time.monotonic() + patience)
    finally:
        for process in processes:
            if answers:
                process.join(FAREWELL)
            process.kill()
            process.join()
    return answers[0]


def _answers(receivers: list[Connection], deadline: float) -> list:
    """What comes out of each pipe, in their order."""
    found: dict[int, Any] = {}
    while len(found) < len(receivers):
        left = [each for rank, each in enumerate(receivers) if rank not in found]
        ready = wait(left, max(deadline - time.monotonic(), 0))
        if not ready:
            raise RuntimeError(f"{len(left)} of {len(receivers)} ranks took too long")
        for receiver in ready:
            rank = receivers.index(receiver)
            try:
                found[rank] = receiver.recv()
            except (EOFError, OSError):
                raise RuntimeError(f"rank {rank} ended without an answer") from None
    return [found[rank] for rank in range(len(receivers))]


def _answer(sender: Connection, patience: float, job: Callable[..., Any], rank: int, *arguments) -> None:
    # The alarm's default is death, and it comes later than the caller's own end of patience. A thread that watched the
    # caller instead would be one more than a bare process has.
    signal.setitimer(signal.ITIMER_REAL, patience + FAREWELL)
    sender.send(job(rank, *arguments))
