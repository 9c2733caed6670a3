"""What recording costs, read off a run of which every other step was not recorded (`verify`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis.collective_shares import ALL, OTHER, collective_shares
from wanhook.analysis.paired_change import Change, paired_change
from wanhook.analysis.ranks import on_gpu, rank_of, recording_of
from wanhook.tracefile.format import ScopeVerify

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

WARM_UP = 2  # pairs at the begin of a recording: one whole turn of the order in which steps are muted
PROMISED = 0.003  # what recording may cost: that it costs something is no finding
# In a recorded step behind a muted one the driver is asked anew how much memory is free, which takes 10 to 15 us: the
# answer of the step before has grown old. Without the check the end of each step leaves the next one a fresh answer.
CHECKS_OWN = 15_000  # ns


@dataclass(frozen=True)
class RankChange:
    """One rank's own figure, None with too few pairs."""

    rank: int
    pairs: int
    time: Change | None


@dataclass(frozen=True)
class Perturbation:
    """The steps of one path. `time` is by how much recorded steps are longer than muted ones, as shares: of GPU time
    (`clock` "gpu") or of host time ("host"); `host_time` the same of host time. Over `pairs` of neighbouring steps, of
    which each is the mean over the ranks that have it; warm-up is left out. None with fewer than 6 pairs.

    `found`: the whole interval lies above the promised 0.3 %. `step_ns` is the median of the muted steps;
    `check_share_at_most`: how much of `time` the check itself can be, None on the host's clock. `beside_ns` is how
    long, in a recorded step, collectives run beside other work; recorded steps cannot be compared with muted ones in
    that, but what was lost of it would be missing: `lost_share_at_most` bounds it.
    """

    path: str
    clock: str
    steps: int
    muted: int
    pairs: int
    time: Change | None
    host_time: Change | None
    found: bool
    step_ns: float | None
    check_share_at_most: float | None
    beside_ns: float | None
    lost_share_at_most: float | None
    ranks: list[RankChange]


@dataclass(frozen=True)
class Unchecked:
    """A scope that was to be checked (`verify` in the meta object) and of which no occurrence was a step of the check,
    on any rank: a scope that a recording begins with is none. `occurrences` counts all of that name."""

    scope: str
    occurrences: int


_PAIR = np.dtype([("number", "i8"), ("recorded", "f8"), ("muted", "f8")])


def perturbations(traces: Sequence[Trace]) -> list[Perturbation]:
    """One value for each path with steps of the check; empty where nothing was checked."""
    paths = dict.fromkeys(
        trace.paths[at]
        for trace in traces
        for at in np.unique(trace.scopes["path"][trace.scopes["verify"] > 0]).tolist()
    )
    return [_perturbation(traces, path) for path in paths]


def unchecked(traces: Sequence[Trace]) -> list[Unchecked]:
    """Names in the order in which they were first asked for; empty where all of them were checked."""
    asked = [trace.meta.get("verify") for trace in traces]
    names = dict.fromkeys(name for found in asked if isinstance(found, list) for name in found if isinstance(name, str))
    scopes = {name: [_named(trace, name) for trace in traces] for name in names}
    return [
        Unchecked(name, sum(map(len, rows)))
        for name, rows in scopes.items()
        if not any((found["verify"] > 0).any() for found in rows)
    ]


def _named(trace: Trace, name: str) -> np.ndarray:
    return trace.scopes[np.isin(trace.scopes["name"], [at for at, text in enumerate(trace.strings) if text == name])]


def _perturbation(traces: Sequence[Trace], path: str) -> Perturbation:
    steps = [_steps(trace, path) for trace in traces]
    gpu = any(on_gpu(trace) and (rows["gpu_end"] >= 0).any() for trace, rows in zip(traces, steps, strict=True))
    names = ("gpu_begin", "gpu_end") if gpu else ("begin", "end")
    numbers: dict[tuple[int, int], int] = {}
    recordings = [numbers.setdefault(recording_of(trace), len(numbers)) for trace in traces]
    found = [_pairs(rows, number, *names) for rows, number in zip(steps, recordings, strict=True)]
    on_host = [_pairs(rows, number, "begin", "end") for rows, number in zip(steps, recordings, strict=True)]
    joined = _joined(found)
    time = _change(joined)
    step_ns = float(np.median(joined["muted"])) if len(joined) else None
    beside = _beside(traces, path, joined)
    return Perturbation(
        path=path,
        clock="gpu" if gpu else "host",
        steps=sum(map(len, steps)),
        muted=int(sum((rows["verify"] == ScopeVerify.MUTED).sum() for rows in steps)),
        pairs=len(joined),
        time=time,
        host_time=_change(_joined(on_host)),
        found=time is not None and time.low > PROMISED,
        step_ns=step_ns,
        check_share_at_most=CHECKS_OWN / step_ns if gpu and step_ns else None,
        beside_ns=beside,
        lost_share_at_most=_lost(time, step_ns, beside),
        ranks=[
            RankChange(rank_of(trace), len(pairs), _change(pairs)) for trace, pairs in zip(traces, found, strict=True)
        ],
    )


def _steps(trace: Trace, path: str) -> np.ndarray:
    scopes = trace.scopes
    chosen = np.isin(scopes["path"], [at for at, text in enumerate(trace.paths) if text == path])
    return scopes[chosen & (scopes["verify"] > 0)]


def _pairs(rows: np.ndarray, recording: int, begin: str, end: str) -> np.ndarray:
    """Steps 2n and 2n + 1 of the check, of which one was recorded (_PAIR[n]). Without those that began the recording,
    that began a request, or that two requests share."""
    rows = rows[: len(rows) // 2 * 2]
    first, second = rows[0::2], rows[1::2]
    begins_request = np.zeros(len(rows), bool)
    begins_request[np.unique(rows["parent"], return_index=True)[1]] = True
    timed = (rows[begin] >= 0) & (rows[end] > rows[begin])
    good = (first["verify"] != second["verify"]) & (first["parent"] == second["parent"])
    good &= timed[0::2] & timed[1::2] & ~begins_request[0::2] & ~begins_request[1::2]
    good[:WARM_UP] = False
    lengths = (rows[end] - rows[begin]).astype(float)
    recorded_first = first["verify"] == ScopeVerify.RECORDED
    out = np.empty(len(first), _PAIR)
    # Of the same recording on each rank, when a process makes several or is started again.
    out["number"] = np.arange(len(first)) + (recording << 32)
    out["recorded"] = np.where(recorded_first, lengths[0::2], lengths[1::2])
    out["muted"] = np.where(recorded_first, lengths[1::2], lengths[0::2])
    return out[good]


def _joined(pairs: Iterable[np.ndarray]) -> np.ndarray:
    """The ranks change together, and wait for each other: their steps are one measurement, the mean over the ranks."""
    rows = np.concatenate([np.empty(0, _PAIR), *pairs])
    numbers, place, counts = np.unique(rows["number"], return_inverse=True, return_counts=True)
    out = np.zeros(len(numbers), _PAIR)
    out["number"] = numbers
    for name in ("recorded", "muted"):
        np.add.at(out[name], place, rows[name])
        out[name] /= counts
    return out


def _change(pairs: np.ndarray) -> Change | None:
    return paired_change(pairs["recorded"], pairs["muted"])


def _beside(traces: Sequence[Trace], path: str, joined: np.ndarray) -> float | None:
    shares = [part.share for part in collective_shares(traces, path) if part.where == OTHER and part.name == ALL]
    return shares[0] * float(np.median(joined["recorded"])) if shares and len(joined) else None


def _lost(time: Change | None, step_ns: float | None, beside: float | None) -> float | None:
    if time is None or not beside:
        return None
    lost = max(time.high, 0.0) * step_ns
    return lost / (beside + lost)
