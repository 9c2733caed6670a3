"""How much longer one thing takes than another, from pairs measured one after the other, with a 95 % interval.

The Hodges-Lehmann estimate of the logarithm of the ratio, with the interval of Wilcoxon's signed-rank test: exact for
any distribution that is symmetric about the change, and one wild pair (a step that loads another expert) moves it
little, where a mean and its t interval would be useless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST = 6  # with fewer pairs no interval holds with 95 %
MOST = 1000  # the work grows with the square
_LEVEL = 0.05
_EXACT = 200


@dataclass(frozen=True)
class Change:
    """Shares: 0.01 means 1 % longer. `low` and `high` bound it with 95 % confidence."""

    change: float
    low: float
    high: float


def paired_change(longer: np.ndarray, base: np.ndarray) -> Change | None:
    """longer, base: positive durations, shape (pairs,). None with fewer than 6 pairs; of more than 1000 the last."""
    if len(base) < FEWEST:
        return None
    logs = np.log(np.asarray(longer[-MOST:], float) / np.asarray(base[-MOST:], float))
    first, second = np.triu_indices(len(logs))
    averages = np.sort((logs[first] + logs[second]) / 2)
    cut = _rank_sum_below(len(logs))
    low, high = averages[cut - 1], averages[-cut]
    return Change(*(float(np.expm1(value)) for value in (np.median(averages), low, high)))


def _rank_sum_below(pairs: int) -> int:
    """The largest number that the signed-rank sum of so many pairs falls below with a probability of 2.5 % at most."""
    if pairs > _EXACT:
        mean, variance = pairs * (pairs + 1) / 4, pairs * (pairs + 1) * (2 * pairs + 1) / 24
        return int(mean - 1.959964 * variance**0.5)
    chances = np.ones(1)  # of each sum, all signs being alike
    for rank in range(1, pairs + 1):
        shifted = np.concatenate([np.zeros(rank), chances])
        shifted[: len(chances)] += chances
        chances = shifted / 2
    return int(np.searchsorted(np.cumsum(chances), _LEVEL / 2, "right"))
