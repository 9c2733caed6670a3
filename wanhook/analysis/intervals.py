"""Sets of half-open time intervals [begin, end).

A set is an int64 array of shape (n, 2), in ns. `union` makes it canonical: sorted, disjoint, not touching, none empty.
`intersection` and `subtraction` take any sets and return canonical ones. An interval whose end is not after its
begin is empty and disappears.
"""

from __future__ import annotations

import numpy as np


def of(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The set of the intervals begin[i]..end[i]; both of shape (n,), ns."""
    return np.stack([np.asarray(begin, np.int64), np.asarray(end, np.int64)], axis=1)


def union(*sets: np.ndarray) -> np.ndarray:
    """The canonical set of all moments that are in any of the sets."""
    spans = np.concatenate([np.empty((0, 2), np.int64), *sets])
    spans = spans[spans[:, 1] > spans[:, 0]]
    if len(spans) == 0:
        return spans
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    starts = np.flatnonzero(np.r_[True, spans[1:, 0] > reach[:-1]])
    return of(spans[starts, 0], reach[np.r_[starts[1:] - 1, len(spans) - 1]])


def intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The canonical set of all moments that are in both."""
    return _where_depth(union(first), union(second), 1, 1, 2)


def subtraction(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The canonical set of all moments that are in the first and not in the second."""
    return _where_depth(union(first), union(second), 1, -1, 1)


def coverage(*sets: np.ndarray) -> int:
    """How long (ns) any of the sets lasts; a moment counts once however many intervals hold it."""
    spans = union(*sets)
    return int((spans[:, 1] - spans[:, 0]).sum())


def overlap(begin: np.ndarray, end: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """How long (ns, int64[n]) each interval begin[i]..end[i] lies in the set; 0 for an empty one."""
    spans = union(spans)
    covered = np.r_[0, np.cumsum(spans[:, 1] - spans[:, 0])]

    def covered_before(moments: np.ndarray) -> np.ndarray:
        at = np.searchsorted(spans[:, 0], moments, side="right")
        beyond = np.maximum(spans[at - 1, 1] - moments, 0) if len(spans) else 0
        return np.where(at > 0, covered[at] - beyond, 0)

    begin, end = np.asarray(begin, np.int64), np.asarray(end, np.int64)
    return np.where(end > begin, covered_before(end) - covered_before(begin), 0)


def _where_depth(first: np.ndarray, second: np.ndarray, weight: int, other: int, wanted: int) -> np.ndarray:
    """Where the weights of the canonical sets that are active add up to `wanted`."""
    edges = np.concatenate([first.ravel(), second.ravel()])
    steps = np.concatenate([np.tile([weight, -weight], len(first)), np.tile([other, -other], len(second))])
    order = np.argsort(edges, kind="stable")
    edges, inside = edges[order], np.cumsum(steps[order]) == wanted
    if len(edges) == 0:
        return np.empty((0, 2), np.int64)
    return union(of(edges[:-1][inside[:-1]], edges[1:][inside[:-1]]))
