"""Starts the ranks with torchrun's own machinery, inside this process: saves its command line's import of torch."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

# A worker's exit status -N says that signal N ended it; a shell says 128 + N.
_SIGNALLED = 128


def available_gpus() -> int:
    """GPUs that the ranks may use. Counted through NVML: CUDA stays uninitialised here, or no rank could fork."""
    import torch

    return torch.cuda.device_count() if torch.backends.cuda.is_built() else 0


def launch_ranks(processes: int, worker_arguments: list[str]) -> int:
    """Runs `wanhook.demo.worker` in that many processes and waits; returns 0 or the first failure's exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    _set_thread_count(processes)
    place = ["--standalone", "--local-addr", "localhost", "--nproc-per-node", str(processes)]
    try:
        with _own_signal_handlers_kept():
            run(parse_args([*place, "-m", "wanhook.demo.worker", *worker_arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"wanhook.demo: rank {rank} failed: {_reason(failure.exitcode)}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else _SIGNALLED - failure.exitcode
    except SignalException as stop:
        print(f"wanhook.demo: ended by {stop.sigval.name}", file=sys.stderr)
        return _SIGNALLED + int(stop.sigval)
    return 0


@contextlib.contextmanager
def _own_signal_handlers_kept() -> Iterator[None]:
    """torchrun's agent sets handlers and leaves them: an interrupt of the report would raise its SignalException."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    kept = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _reason(status: int) -> str:
    if status >= 0:
        return f"exit status {status}; its error is above"
    return f"ended by {signal.Signals(-status).name}"


def _set_thread_count(processes: int) -> None:
    """Deals the cores out to the ranks. torchrun would say at length that it chose one thread each."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(8, cores // processes))))
