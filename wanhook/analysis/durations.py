"""What a list of durations comes to.

The first occurrence is warm-up: it counts into `count` and `total`, is kept out of mean, percentiles and maximum, and
stands apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Durations:
    """Of `count` durations, all in ns. Percentiles lie on the line between the two nearest values (numpy's default).

    `first_ns` is the mean over the processes of their first occurrences; None where no first one was timed. `mean_ns`,
    `p50_ns`, `p95_ns` and `max_ns` are None where nothing but first occurrences was timed.
    """

    count: int
    total_ns: int
    first_ns: float | None
    mean_ns: float | None
    p50_ns: float | None
    p95_ns: float | None
    max_ns: int | None


def summarise(lengths: np.ndarray, first: np.ndarray) -> Durations:
    """lengths: int64 ns, shape (n,). first: bool, shape (n,), true for the first occurrence in its process."""
    warm = lengths[~first]
    mean = p50 = p95 = longest = None
    if len(warm):
        p50, p95 = (float(value) for value in np.percentile(warm, [50, 95]))
        mean, longest = float(warm.mean()), int(warm.max())
    return Durations(
        count=len(lengths),
        total_ns=int(lengths.sum()),
        first_ns=float(lengths[first].mean()) if first.any() else None,
        mean_ns=mean,
        p50_ns=p50,
        p95_ns=p95,
        max_ns=longest,
    )
