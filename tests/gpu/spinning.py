"""GPU work of a known length, and independent measurements of it."""

from functools import lru_cache

import numpy as np
import torch

MICROSECOND = 1_000


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


def watched_spin(name: str, microseconds: float, ahead: float = 1_000):
    """A scope around a spin, and an independent pair of events inside it.

    A spin of ``ahead`` µs comes first, so that the host has enqueued all of it before the stream gets there: the two
    pairs then lie back to back on the GPU.
    """
    import wanhook

    begin, end = timing_event(), timing_event()
    spin(ahead)
    with wanhook.trace(name, level="op"):
        begin.record()
        spin(microseconds)
        end.record()
    return begin, end


def assert_equal_lengths(measured, pairs) -> None:
    """``assert_near`` of what pairs of events measured."""
    assert_near(measured, [nanoseconds(*pair) for pair in pairs])


def assert_near(measured, independent) -> None:
    """ns: within 5 % or 20 µs of independent events, each one, and without a bias beyond what two records take."""
    independent = np.array(independent)
    assert len(measured) == len(independent), f"{len(measured)} for {len(independent)} pairs"
    off = measured - independent
    allowed = np.maximum(0.05 * independent, 20 * MICROSECOND)
    assert (np.abs(off) <= allowed).all(), f"off by {off.tolist()} ns of {independent.tolist()}"
    assert -2 * MICROSECOND <= np.median(off) <= 15 * MICROSECOND, f"off by {off.tolist()} ns"
