"""Which stage a scope belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wanhook.tracefile.format import ScopeLevel
from wanhook.tracefile.names import MAX_DEPTH

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace


def stage_paths(trace: Trace, scopes: np.ndarray) -> np.ndarray:
    """Scope ids (int[n]) -> the index into Trace.paths of the innermost stage around each, the scope itself if it is
    one (int64[n]); -1 outside of stages."""
    ids, place = np.unique(scopes, return_inverse=True)
    if not len(trace.scopes):
        return np.full(len(scopes), -1, np.int64)
    rows = trace.scope_rows(np.maximum(ids.astype(np.int64), 0))
    parents, level = trace.scope_rows(trace.scopes["parent"]), trace.scopes["level"]
    for _ in range(MAX_DEPTH):
        inner = np.flatnonzero((rows >= 0) & (level[rows] != ScopeLevel.STAGE))
        if not len(inner):
            break
        rows[inner] = parents[rows[inner]]
    return np.where(rows >= 0, trace.scopes["path"][rows], -1)[place.reshape(-1)]
