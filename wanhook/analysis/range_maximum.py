"""The largest value in each of many ranges of arrays."""

from __future__ import annotations

import numpy as np


class Ranges:
    """The ranges begin[i] <= place < end[i], shape (n,). They may nest and overlap; none may be empty.

    Ten thousand nested scopes over ten million events must not cost their sum of lengths: values are first reduced
    between neighbouring range ends, then the ranges are answered from maxima over power-of-two runs of these pieces.
    """

    def __init__(self, begin: np.ndarray, end: np.ndarray) -> None:
        self._cuts = np.unique(np.concatenate([begin, end]))
        self._first, self._last = np.searchsorted(self._cuts, begin), np.searchsorted(self._cuts, end)
        self._level = np.frexp((self._last - self._first).astype(np.float64))[1] - 1

    def maximum(self, values: np.ndarray) -> np.ndarray:
        """max(values[begin[i]:end[i]]) for each i, shape (n,)."""
        found = np.empty(len(self._first), values.dtype)
        if not len(found):
            return found
        run = np.maximum.reduceat(values, self._cuts[self._cuts < len(values)])
        for step in range(int(self._level.max()) + 1):
            asked = self._level == step
            found[asked] = np.maximum(run[self._first[asked]], run[self._last[asked] - (1 << step)])
            run = np.maximum(run[: -(1 << step)], run[1 << step :]) if len(run) > 1 << step else run
        return found
