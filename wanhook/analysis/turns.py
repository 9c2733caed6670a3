"""When the turn of a collective came: the kernels of one NCCL communicator run one after another, whatever their
streams.

NCCL makes the stream of a call wait for the communicator's call before it (`ncclLaunchPrepare` in its src/enqueue.cc;
NVIDIA/nccl issue 574: operations of one communicator are always serialized, by CUDA events), and torch has one
communicator for the collectives of a process group on a device. So a stream can reach the begin event of a call long
before the kernel's turn: FSDP's prefetched all_gather behind the all_to_all of the same group.

Calls take turns that were issued on one device to one group over NCCL. Left out, neither waiting nor waited for:
- P2P and coalesced calls, for which torch may have a communicator of their own;
- calls issued into a CUDA graph, and others without a time (those before them still hold them up);
- calls without bytes other than barriers, and those of groups of one rank: NCCL launches no kernel in turn for them.
Different groups have different communicators, and no order is known between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wanhook.tracefile.format import CollectiveFlags

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

LAUNCH = 8_000  # ns from the host's launch to the kernel on an idle stream
_APART = CollectiveFlags.P2P | CollectiveFlags.COALESCED | CollectiveFlags.GROUP | CollectiveFlags.CAPTURED


@dataclass(frozen=True)
class Turns:
    """For each collective of a trace, int64[n].

    `turn`, ns: when both its stream had reached it and the last call before it had ended, by their events; never beyond
    `gpu_end`, and -1 without a stream interval. An end event is reached some us after its kernel (`end_slack`), so a
    kernel can have begun that much before its turn, but not before `gpu_begin`. `behind`: the row of the call that it
    waited for, -1 where its turn had come when its stream got there.
    """

    turn: np.ndarray
    behind: np.ndarray


def turns(trace: Trace) -> Turns:
    """The order of the rows does not matter; the host's does."""
    calls = trace.collectives
    timed = (calls["gpu_begin"] >= 0) & (calls["gpu_end"] >= calls["gpu_begin"])
    found = Turns(np.where(timed, calls["gpu_begin"], -1), np.full(len(calls), -1, np.int64))
    inside = np.flatnonzero(timed & _in_turn(trace))
    lane = calls["group"][inside].astype(np.int64) << 8 | calls["device"][inside].astype(np.uint8)
    for one in np.unique(lane).tolist():
        own = inside[lane == one]
        own = own[np.lexsort((calls["sequence"][own], calls["begin"][own]))]
        _take_turns(found, calls, own, _end_told(trace, calls[own]))
    return found


def waited(trace: Trace, found: Turns) -> np.ndarray:
    """For how long the stream of each call waited for its turn (int64[n], ns)."""
    return np.where(found.behind >= 0, found.turn - trace.collectives["gpu_begin"], 0)


def _take_turns(found: Turns, calls: np.ndarray, own: np.ndarray, told: np.ndarray) -> None:
    """`own`: rows of one communicator's calls in the order of the host; `told`: which ends are known."""
    ends = np.where(told, calls["gpu_end"][own], -1)
    latest = np.maximum.accumulate(ends)
    holder = np.maximum.accumulate(np.where(ends == latest, np.arange(len(own)), 0))
    # NCCL has a stream of its own for asynchronous calls. On one stream only rounding sets a begin before that end.
    asynchronous = (calls["flags"][own] & CollectiveFlags.ASYNC) != 0
    stream = np.where(asynchronous, -1, calls["stream"][own].astype(np.int64))
    elsewhere = stream[holder[:-1]] != stream[1:]
    late = np.flatnonzero(elsewhere & (latest[:-1] > calls["gpu_begin"][own[1:]]))
    rows = own[late + 1]
    found.turn[rows] = np.minimum(latest[late], calls["gpu_end"][rows])
    found.behind[rows] = own[holder[late]]


def _end_told(trace: Trace, calls: np.ndarray) -> np.ndarray:
    """Whose end event stood in the queue behind the kernel (bool[n]). One that the GPU reached as soon as the host had
    recorded it may come long after the kernel, which the next call did not wait for."""
    unsure = trace.clock.gpu_error(int(calls["device"][0]), calls["gpu_begin"])
    return (calls["returned"] >= 0) & (calls["gpu_end"] >= calls["returned"] + unsure + LAUNCH)


def _in_turn(trace: Trace) -> np.ndarray:
    calls = trace.collectives
    nccl = [at for at, group in trace.groups.items() if "nccl" in (group.backend or "") and group.size != 1]
    barriers = [at for at, name in enumerate(trace.strings) if name.removeprefix("c10d::") == "barrier"]
    moving = (calls["bytes_in"] > 0) | (calls["bytes_out"] > 0) | np.isin(calls["op"], barriers)
    return (calls["device"] >= 0) & ((calls["flags"] & _APART) == 0) & np.isin(calls["group"], nccl) & moving
