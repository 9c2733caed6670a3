"""Facts and sums of a run by rank: one rank can have left several traces, after a restart or a second recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.tracefile.names import section, whole

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

NO_RANK = -1
RANKS_DIFFER = 0.02  # a total that lies further above the mean over the ranks is worth a word


@dataclass(frozen=True)
class RankTotal:
    """One rank's share of a row: how many durations were summed, and the sum in ns."""

    rank: int
    count: int
    total_ns: int


def rank_of(trace: Trace) -> int:
    """The trace's rank, NO_RANK where the process had none."""
    return NO_RANK if trace.rank is None else trace.rank


def recording_of(trace: Trace) -> tuple[int, int]:
    """What the traces that the ranks wrote together have in common: how often the run had been restarted before, and
    the number of the recording in its process."""
    about = section(trace.meta, "run")
    return whole(about.get("restart")) or 0, whole(about.get("recording")) or 0


def named(rank: int) -> str:
    """As a sentence has it: "rank 3", or "the process" for one without a rank."""
    return "the process" if rank == NO_RANK else f"rank {rank}"


def on(rank: int) -> str:
    """Where something happened: "on rank 3", "in the process"."""
    return f"{'in' if rank == NO_RANK else 'on'} {named(rank)}"


def on_gpu(trace: Trace) -> bool:
    """Whether GPU times are to be expected: the device says so, or else some scope or collective has them."""
    if trace.device_type in ("cuda", "cpu"):
        return trace.device_type == "cuda"
    return bool((trace.scopes["gpu_begin"] >= 0).any() or (trace.collectives["gpu_begin"] >= 0).any())


def calls_by_rank(rank: np.ndarray) -> dict[int, int]:
    """How often each rank is in `rank` (shape (n,)), ranks in order."""
    return dict(zip(*(found.tolist() for found in np.unique(rank, return_counts=True)), strict=True))


def totals_by_rank(rank: np.ndarray, lengths: np.ndarray) -> list[RankTotal]:
    """Sums lengths (int64 ns, shape (n,)) by rank (shape (n,)), ranks in order."""
    ranks, place, counts = np.unique(rank, return_inverse=True, return_counts=True)
    totals = np.zeros(len(ranks), np.int64)
    np.add.at(totals, place, lengths)
    return [RankTotal(int(r), int(c), int(t)) for r, c, t in zip(ranks, counts, totals, strict=True)]


def mean_total(totals: list[RankTotal]) -> float | None:
    """Mean over the ranks of their totals, ns; None where there are none."""
    return sum(share.total_ns for share in totals) / len(totals) if totals else None


def largest(totals: list[RankTotal]) -> tuple[int, float] | None:
    """The rank with the largest total, and by which share of the mean it lies above the mean over the ranks.

    None where fewer than two ranks have a total, or all are 0.
    """
    mean = mean_total(totals)
    if len(totals) < 2 or not mean:
        return None
    top = max(totals, key=lambda share: share.total_ns)
    return top.rank, top.total_ns / mean - 1
