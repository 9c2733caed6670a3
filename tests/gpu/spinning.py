"""GPU work of a known length, and independent measurements of it."""

from functools import lru_cache

import torch


@lru_cache
def _cycles_a_microsecond() -> float:
    # The clocks rise under load: the first spin only warms the GPU up.
    torch.cuda._sleep(200_000_000)
    begin, end = timing_event(), timing_event()
    begin.record()
    torch.cuda._sleep(20_000_000)
    end.record()
    torch.cuda.synchronize()
    return 20_000_000 / (begin.elapsed_time(end) * 1000)


def calibrate() -> None:
    """Do the calibration now, so that the first ``spin`` does not wait for the GPU."""
    _cycles_a_microsecond()


def spin(microseconds: float) -> None:
    """Keep the current stream busy for about that long; returns at once. One thread block: all other streams go on."""
    torch.cuda._sleep(int(microseconds * _cycles_a_microsecond()))


def timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def nanoseconds(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    """Time between two events that the GPU has passed."""
    return begin.elapsed_time(end) * 1e6
