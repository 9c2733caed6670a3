"""Where inside its stream interval a collective's kernel ran: a class, and bounds for its start and end.

An event pair tells when the stream got to the call and when the call's work was done. The kernel between starts later,
because its turn had not come (`turns`), because of the events themselves, because the host had not launched it yet, or
because all SMs were taken. Which of them can have been is decided here from what the trace holds; nothing of it is in
the file. A call is on from its turn to its end:

- *idle*: the GPU was ready for it before the host's call was over, so the kernel may not have been launched yet.
  It started no later than the launch latency after the return of the call.
- *overlapped*: another stream of the device was, or may have been, at work: a collective or a scope on it lies across
  this interval, its wait scopes taken out; or the call is asynchronous, so that its caller's stream went on. The kernel
  can have waited for SMs until it had just time to run: as long as the fastest busy-alone call alike.
- *busy-alone*: neither. The two events cost a constant.
- *unknown*: the call ran on a stream that no scope is about, beside streams of which nothing is known.

Copies of torch's within the interval (`list_copies`) are no part of the kernel: the interval is not corrected, and the
kernel's edge beside them can lie anywhere, or be farther by as long as the fastest call alike took whole.

What is both idle and overlapped is called overlapped, and has the wider of both bounds. "Alone" means that nothing ran
that wanhook recorded: work on a stream without scopes and collectives is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.list_copies import copied
from wanhook.analysis.turns import LAUNCH, turns
from wanhook.tracefile.clock import Clock
from wanhook.tracefile.format import CollectiveFlags, ScopeType, SpanClass
from wanhook.tracefile.names import section, whole

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

# All in ns. `python -m benchmarks.kineto_matrix` measures every one of them against Kineto.
PAIR = 4_700  # busy-alone interval less kernel, where the recording did not measure it: 4.0 to 5.2 µs on H200
PAIR_SPREAD = 800
EVENT = 2_800  # from one event to the next without work between them: 2.5 to 2.8 µs on H200
KERNEL_GAP = 1_000  # between two kernels in a row, which a memset's share of a long row holds and a pair does not
LEAST_PAIR, MOST_PAIR, NOISY = 2_000, 12_000, 1_500  # beyond these a measurement was disturbed
BUSY_BEGIN = 6_000  # from the begin event to the kernel, the stream being busy and the SMs free
BUSY_END = 5_000  # from the kernel to the end event, which was in the queue behind it
CROWDED_END = 12_000  # the same beside other work: a memory-bound kernel delays the event
FASTER = 0.9  # a call may take this part of the fastest one alike
MAX_SLACK = (1 << 32) - 1
MOST_STREAMS = 64  # whose scopes are joined and whose waits are taken out; a damaged file can claim any number


@dataclass(frozen=True)
class PairCost:
    """What two events around a busy-alone kernel add to it, ns; `measured` on this machine, else the constants here.

    `event_ns`: what each further event within the two adds, as NCCL's own do.
    """

    ns: int
    spread: int
    measured: bool
    event_ns: int = EVENT


def pair_cost(meta: dict, device: int) -> PairCost:
    """The cost on a device, from the pairs around memsets that the recorder timed (`event_pair` of the meta object).

    `one_ns` holds the events and one kernel, `many_ns` those and `many` kernels with the gaps between them. What is
    noisy or cannot be is not used.
    """
    found = section(section(meta, "event_pair"), str(device))
    one, many, count, spread = (whole(found.get(name)) for name in ("one_ns", "many_ns", "many", "spread_ns"))
    empty = whole(found.get("empty_ns"))
    if None not in (one, many, count, spread) and count > 1 and many > one and spread <= NOISY:
        cost = round(one - (many - one) / (count - 1)) + KERNEL_GAP
        if LEAST_PAIR <= cost <= MOST_PAIR:
            return PairCost(cost, spread, True, empty if empty is not None and 0 < empty < one else EVENT)
    return PairCost(PAIR, PAIR_SPREAD, False)


def classify(trace: Trace) -> None:
    """Fill `span_class`, `begin_slack` and `end_slack` (ns) of the trace's collectives that have a stream interval and
    neither class nor bounds of the recorder's own. A second call changes nothing."""
    calls, scopes = trace.collectives, trace.scopes
    open_ = (calls["gpu_begin"] >= 0) & (calls["gpu_end"] >= calls["gpu_begin"]) & (calls["span_class"] == 0)
    open_ &= (calls["begin_slack"] == 0) & (calls["end_slack"] == 0)
    taken = turns(trace)
    followed = np.zeros(len(calls), bool)
    followed[taken.behind[taken.behind >= 0]] = True
    for device in np.unique(calls["device"][open_]).tolist():
        own = np.flatnonzero(open_ & (calls["device"] == device))
        cost = event_costs(calls[own], pair_cost(trace.meta, device))
        here = scopes[scopes["device"] == device]
        fastest = _classify_device(calls, own, here, trace.clock, cost, taken.turn[own], followed[own])
        _make_room_for_copies(trace, own, fastest, taken.behind[own] >= 0, followed[own])


def correction(trace: Trace) -> np.ndarray:
    """What to take off the time from each collective's turn to its end to have its kernel's length (int64[n], ns): the
    cost of the event pair where the class is busy-alone and torch copies nothing beside, else 0. `classify` goes first.

    A call that waited for its turn keeps its time as it is: its begin event had long passed, and its end event is as
    late behind its kernel as that of the call before, which gave the turn."""
    calls = trace.collectives
    out = np.zeros(len(calls), np.int64)
    alone = (calls["span_class"] == SpanClass.BUSY_ALONE) & (calls["gpu_begin"] >= 0) & (turns(trace).behind < 0)
    before, behind = copied(trace.strings, calls["op"])
    alone &= ~before & ~behind
    for device in np.unique(calls["device"][alone]).tolist():
        own = alone & (calls["device"] == device)
        out[own] = event_costs(calls[own], pair_cost(trace.meta, device))
    return np.minimum(out, np.maximum(calls["gpu_end"] - calls["gpu_begin"], 0))


def event_costs(calls: np.ndarray, pair: PairCost) -> np.ndarray:
    """What the events of each call add to its kernel (int64[n], ns): our pair, and NCCL's own where it keeps them."""
    return pair.ns + 2 * pair.event_ns * _around_events(calls)


def _around_events(calls: np.ndarray) -> np.ndarray:
    return ((calls["flags"] & CollectiveFlags.AROUND_EVENTS) != 0).astype(np.int64)


@dataclass(frozen=True)
class KernelBounds:
    """Where between their turns and their ends the kernels of some calls lie, ns.

    `classes` counts the calls by class. A kernel begins at most `begin_slack` after its turn and ends at most
    `end_slack` before its end: medians and 95th percentiles. `alone_mean_ns` is the mean length of the busy-alone
    kernels: their intervals less `pair_ns`, first calls and those that waited for their turn left out; both None where
    there are none.
    """

    classes: dict[str, int]
    begin_slack_p50_ns: float
    begin_slack_p95_ns: float
    end_slack_p50_ns: float
    end_slack_p95_ns: float
    alone_mean_ns: float | None
    pair_ns: float | None


def bounds_of(calls: np.ndarray) -> KernelBounds | None:
    """Of calls with `span_class`, `begin_slack`, `end_slack`, `length`, `pair`, `queued` (ns) and `first`, the first
    slack and the length from the turn on; None of none."""
    if not len(calls):
        return None
    counts = {kind.name.lower(): int((calls["span_class"] == kind).sum()) for kind in SpanClass if kind}
    counts["unknown"] = len(calls) - sum(counts.values())  # classes of a damaged file among them
    slack = {name: np.percentile(calls[name], [50, 95]).tolist() for name in ("begin_slack", "end_slack")}
    alone = calls[(calls["span_class"] == SpanClass.BUSY_ALONE) & ~calls["first"] & (calls["queued"] == 0)]
    return KernelBounds(
        {name: count for name, count in counts.items() if count},
        *slack["begin_slack"],
        *slack["end_slack"],
        alone_mean_ns=float((alone["length"] - alone["pair"]).mean()) if len(alone) else None,
        pair_ns=float(alone["pair"].mean()) if len(alone) else None,
    )


def _classify_device(
    collectives: np.ndarray, own: np.ndarray, scopes: np.ndarray, clock: Clock, pair: np.ndarray, turn: np.ndarray,
    followed: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """`turn` and `followed` of the calls `own`: when theirs came (ns), and whether another one waited for their end.
    Returns `_fastest_alike` of them."""
    calls = collectives[own]
    begin, end = calls["gpu_begin"], calls["gpu_end"]
    queued = turn - begin
    # A call that never returned has launched who knows when: its kernel is bounded by the interval alone.
    returned = np.where(calls["returned"] >= 0, calls["returned"], end)
    unsure = clock.gpu_error(int(calls["device"][0]), begin)
    launched = returned + unsure
    beside, known = _activity(calls, turn, scopes)
    idle = turn < launched
    classes = np.select(
        [beside, ~known, idle], [SpanClass.OVERLAPPED, SpanClass.UNKNOWN, SpanClass.IDLE], SpanClass.BUSY_ALONE
    )
    length = end - turn
    crowded = beside | ~known
    fastest = _fastest_alike(calls, np.where((classes == SpanClass.BUSY_ALONE) & (queued == 0), length - pair, -1))
    further = EVENT * _around_events(calls)  # at either edge
    late = np.where(idle, launched + LAUNCH - turn, BUSY_BEGIN + further)
    # Where nothing is known to have run beside, something unseen still can have kept the kernel from starting.
    events = np.where(queued > 0, 0, pair)
    waited = np.where(crowded, length - np.rint(FASTER * fastest).astype(np.int64), late + length - events - fastest)
    late = np.where(fastest > 0, np.maximum(late, waited), np.where(crowded, length, late)) + queued
    # An end event that was reached as soon as it was recorded came after the kernel by some unknown time.
    length = end - begin
    # One that another call waited for has that one's kernel beside its end event.
    usual = np.where(crowded | followed, CROWDED_END, BUSY_END) + further
    early = np.where(end < launched + LAUNCH, length, usual)
    collectives["span_class"][own] = classes
    collectives["begin_slack"][own] = np.clip(late, 0, np.minimum(length, MAX_SLACK))
    collectives["end_slack"][own] = np.clip(early, 0, np.minimum(length, MAX_SLACK))
    return fastest


def _make_room_for_copies(
    trace: Trace, own: np.ndarray, fastest: np.ndarray, queued: np.ndarray, followed: np.ndarray
) -> None:
    """Widen the bounds of calls that torch copies beside. Copies behind the kernel take no longer than the fastest call
    alike, kernel and copies, where nothing else can have slowed or delayed them."""
    calls = trace.collectives[own]
    length = np.minimum(calls["gpu_end"] - calls["gpu_begin"], MAX_SLACK)
    before, behind = copied(trace.strings, calls["op"])
    steady = (calls["span_class"] == SpanClass.BUSY_ALONE) & (fastest > 0) & ~queued & ~followed
    most = np.minimum(calls["end_slack"] + np.rint(fastest / FASTER).astype(np.int64), length)
    trace.collectives["begin_slack"][own] = np.where(before, length, calls["begin_slack"])
    trace.collectives["end_slack"][own] = np.where(behind, np.where(steady, most, length), calls["end_slack"])


def _fastest_alike(calls: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """The fastest (int64[n], ns) of the `kernels` of the same op, group and size, -1 of them where there is none to be
    looked at. 0 where none is alike."""
    names = "op", "group", "bytes_in", "bytes_out", "peer", "tensors"
    alike = np.stack([calls[name].astype(np.int64) for name in names])
    kinds, kind = np.unique(alike, axis=1, return_inverse=True)
    fastest = np.full(kinds.shape[1], np.iinfo(np.int64).max)
    measured = kernels >= 0
    np.minimum.at(fastest, kind.ravel()[measured], kernels[measured])
    return np.where(fastest == np.iinfo(np.int64).max, 0, fastest)[kind.ravel()]


def _activity(calls: np.ndarray, turn: np.ndarray, scopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether another stream was or may have been at work during each call, whether that can be told): bool[n]."""
    own = calls["stream"].astype(np.int64)
    asynchronous = (calls["flags"] & CollectiveFlags.ASYNC) != 0
    timed = scopes[(scopes["gpu_begin"] >= 0) & (scopes["gpu_end"] > scopes["gpu_begin"])]
    scoped = timed["stream"].astype(np.int64)
    known = asynchronous | (own == 0) | np.isin(own, scoped[timed["type"] != ScopeType.WAIT])
    # The backend's own stream: one a group, whose number no stream of the caller's has.
    own = np.where(asynchronous, -1 - calls["group"].astype(np.int64), own)
    streams, begin, end = _at_work(timed, scoped)
    streams = np.concatenate([streams, own])
    begin, end = np.concatenate([begin, turn]), np.concatenate([end, calls["gpu_end"]])
    lasting = end > begin
    across = _crossing(streams[lasting], begin[lasting], end[lasting], own, turn, calls["gpu_end"])
    beside = asynchronous | across
    return beside, known | beside


def _at_work(scopes: np.ndarray, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stream, begin and end of the stretches in which a scope is on and its stream does not just wait."""
    waits = scopes["type"] == ScopeType.WAIT
    few = np.unique(streams)[:MOST_STREAMS]
    rest = ~waits & ~np.isin(streams, few)
    parts = [(streams[rest], scopes["gpu_begin"][rest], scopes["gpu_end"][rest])]
    for stream in few.tolist():
        here = streams == stream
        left = intervals.subtraction(_spans(scopes[here & ~waits]), _spans(scopes[here & waits]))
        parts.append((np.full(len(left), stream, np.int64), left[:, 0], left[:, 1]))
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _spans(scopes: np.ndarray) -> np.ndarray:
    return intervals.of(scopes["gpu_begin"], scopes["gpu_end"])


def _crossing(streams, begin, end, own, first, last) -> np.ndarray:
    """Which of the intervals first..last on streams `own` share time with one of begin..end on another stream."""
    numbers, at = np.unique(np.concatenate([streams, own]), return_inverse=True)
    if len(numbers) < 2:
        return np.zeros(len(own), bool)
    moments, rank = np.unique(np.concatenate([begin, end, first, last]), return_inverse=True)
    begin, end, first, last = np.split(rank, np.cumsum([len(begin), len(end), len(first)]))
    streams, own = at[: len(streams)] * len(moments), at[len(streams) :] * len(moments)

    def crossings(begins, ends, first, last) -> np.ndarray:
        # As many have begun before the last moment and not ended before the first one.
        return np.searchsorted(np.sort(begins), last, "left") - np.searchsorted(np.sort(ends), first, "right")

    # A stream's number above the moment's keeps each stream's moments together: one sort serves all streams.
    inside = crossings(streams + begin, streams + end, own + first, own + last)
    return crossings(begin, end, first, last) > inside
