"""The largest value in each of many ranges of one array."""

from __future__ import annotations

import numpy as np


def range_maximum(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """max(values[begin[i]:end[i]]) for each i; shape (n,). Ranges may nest and overlap; none may be empty.

    Ten thousand nested scopes over ten million events must not cost their sum of lengths: the values are first reduced
    between neighbouring range ends, then the ranges are answered from maxima over power-of-two runs of these pieces.
    """
    if len(begin) == 0:
        return np.empty(0, values.dtype)
    cuts = np.unique(np.concatenate([begin, end]))
    run = np.maximum.reduceat(values, cuts[cuts < len(values)])
    first, last = np.searchsorted(cuts, begin), np.searchsorted(cuts, end)
    level = np.frexp((last - first).astype(np.float64))[1] - 1
    found = np.empty(len(begin), values.dtype)
    for step in range(int(level.max()) + 1):
        asked = level == step
        found[asked] = np.maximum(run[first[asked]], run[last[asked] - (1 << step)])
        run = np.maximum(run[: -(1 << step)], run[1 << step :]) if len(run) > 1 << step else run
    return found
