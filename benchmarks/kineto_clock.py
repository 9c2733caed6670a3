"""How far Kineto's clock is ahead of wanhook's Unix times. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

    from .kineto_match import Kernels

CALIBRATION = "calibration"  # name of the scopes around one spin kernel each
NEAR = 15_000  # ns between the begin of such a scope and its kernel's start, at most
APART = 3_000_000  # ns between two bursts of them


@dataclass(frozen=True)
class Shift:
    """Kineto's clock - ours (float64[n], ns) at some moments `at` (int64[n], ns since the Unix epoch, ascending): the
    two clocks are kept in step in different ways, so they stray from each other by some us within seconds."""

    at: np.ndarray
    ns: np.ndarray

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """In between and outside (float64, the shape of `times`); nan where nothing is known."""
        if not len(self.at):
            return np.full(np.shape(times), np.nan)
        return np.interp(np.asarray(times - self.at[0], float), (self.at - self.at[0]).astype(float), self.ns)


def by_calibrations(trace: Trace, kernels: Kernels, session: int, coarse: int) -> np.ndarray:
    """Between which two values Kineto's times minus wanhook's Unix times lie at each calibration of a session: moment,
    least, most (int64[n, 3], ns). Each calibration kernel ran inside its scope's interval. `coarse`: the difference as
    it is known before, to some 10 us."""
    named = np.isin(trace.scopes["name"], [at for at, text in enumerate(trace.strings) if text == CALIBRATION])
    scopes = trace.scopes[named & (trace.scopes["gpu_begin"] >= 0)]
    begin, end = (trace.clock.to_realtime(scopes[name]) for name in ("gpu_begin", "gpu_end"))
    spins = kernels.named("spin_kernel")
    spins = spins[kernels.session[spins] == session]
    if not len(spins) or not len(scopes):
        return np.empty((0, 3), np.int64)
    at = np.clip(np.searchsorted(kernels.start[spins], begin + coarse - NEAR), 0, len(spins) - 1)
    start, stop = kernels.start[spins[at]], kernels.end[spins[at]]
    same = np.flatnonzero(np.abs(start - begin - coarse) < NEAR)
    bursts = np.split(same, np.flatnonzero(np.diff(begin[same]) > APART) + 1) if len(same) else []
    return np.array(
        [(begin[own[0]], (stop - end)[own].max(), (start - begin)[own].min()) for own in bursts], np.int64
    ).reshape(-1, 3)


def by_kernels(rows: np.ndarray) -> np.ndarray:
    """As by_calibrations, from joined calls: each kernel ran inside its interval."""
    least, most = (rows["stop"] - rows["end"]).max(), (rows["start"] - rows["begin"]).min()
    return np.array([[rows["end"][0], least, most]], np.int64)
