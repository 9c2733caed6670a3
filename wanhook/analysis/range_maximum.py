"""The largest value in each of many ranges of an array that comes in stretches."""

from __future__ import annotations

import numpy as np


class Ranges:
    """The ranges begin[i] <= place < end[i], shape (n,). They may nest and overlap; none may be empty.

    Ten thousand nested scopes over ten million events must not cost their sum of lengths: values are first reduced to
    the largest one between neighbouring range ends (`pieces`, `reduce`), then each range is answered from maxima over
    power-of-two runs of these pieces (`maximum`).
    """

    def __init__(self, begin: np.ndarray, end: np.ndarray) -> None:
        self._cuts = np.unique(np.concatenate([begin, end]))
        self._first, self._last = np.searchsorted(self._cuts, begin), np.searchsorted(self._cuts, end)
        self._level = np.frexp((self._last - self._first).astype(np.float64))[1] - 1

    def pieces(self, dtype: np.dtype) -> np.ndarray:
        """What `reduce` fills: the least value of the dtype for each piece."""
        least = -np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).min
        return np.full(len(self._cuts), least, dtype)

    def reduce(self, pieces: np.ndarray, first: int, values: np.ndarray) -> None:
        """Takes in the values of the places first, first + 1, …; stretches come in any order."""
        begin = max(int(np.searchsorted(self._cuts, first, "right")) - 1, 0)
        end = int(np.searchsorted(self._cuts, first + len(values), "left"))
        starts = np.maximum(self._cuts[begin:end] - first, 0)
        if len(starts):
            own = pieces[begin:end]
            np.maximum(own, np.maximum.reduceat(values, starts), out=own)

    def maximum(self, pieces: np.ndarray) -> np.ndarray:
        """max(values[begin[i]:end[i]]) for each i, shape (n,)."""
        found = np.empty(len(self._first), pieces.dtype)
        run = pieces
        for step in range(int(self._level.max(initial=-1)) + 1):
            asked = self._level == step
            found[asked] = np.maximum(run[self._first[asked]], run[self._last[asked] - (1 << step)])
            run = np.maximum(run[: -(1 << step)], run[1 << step :]) if len(run) > 1 << step else run
        return found
