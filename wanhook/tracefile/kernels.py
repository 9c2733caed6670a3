"""NCCL's kernels of a window, and the collective that each belongs to.

A kernel is joined by its launch: the host's call that launched it began inside the collective's own call. In a
coalesced group the members only collect the work, and the launch comes behind the last of them: then the kernel belongs
to all of the group. Where the file does not tell the launch, a kernel that lies inside the stream interval of one
fitting call, and of no other, belongs to that. Everything else stays unmatched.
"""

from __future__ import annotations

import re

import numpy as np

from .clock import Clock
from .format import CollectiveFlags, Kind
from .names import BEYOND
from .reader import Slots
from .tables import KERNEL

NEAR = 8  # calls that may be under way at one time: one a thread
SLACK = 5_000  # ns by which a kernel may stick out of its call's stream interval: two clocks that were joined
_MOST = 65535  # of the 16-bit counts

_KINDS = ("SendRecv", "AllGather", "ReduceScatter", "AllReduce", "Broadcast", "Reduce")
_KERNEL = re.compile(rf"_({'|'.join(_KINDS)})(?![A-Za-z])")
_BITS = {name: 1 << at for at, name in enumerate(_KINDS)}
_ANY = sum(_BITS.values())
# What NCCL runs for an op of c10d, by how the op's name begins; the first that fits.
_RUNS = (
    ("alltoall", "SendRecv"), ("send", "SendRecv"), ("recv", "SendRecv"), ("gather", "SendRecv"),
    ("scatter", "SendRecv"), ("allgather", "AllGather Broadcast"), ("reduce_scatter", "ReduceScatter Reduce"),
    ("allreduce", "AllReduce"), ("barrier", "AllReduce"), ("broadcast", "Broadcast"), ("reduce", "Reduce"),
)  # fmt: skip


def read(slots: Slots, clock: Clock) -> np.ndarray:
    """KERNEL[n] by begin; `collective` is 0 until `join`, `launch` -1 where it is not known."""
    out = slots.take(Kind.KERNEL_SPAN, KERNEL, slots.positions(Kind.KERNEL_SPAN))
    launched = out["launch"] > 0
    for name in ("begin", "end", "launch"):
        out[name] = clock.from_realtime(out[name])
    out["launch"][~launched] = -1
    out["end"] = np.maximum(out["begin"], out["end"])
    out["name"] = np.minimum(out["name"], BEYOND)
    return out[np.argsort(out["begin"], kind="stable")]


def join(kernels: np.ndarray, calls: np.ndarray, strings: list[str]) -> None:
    """Fills in `collective` of KERNEL[n], and what COLLECTIVE[m] says of its kernels; both by begin."""
    calls["kernel_begin"] = calls["kernel_end"] = -1
    known = np.flatnonzero((calls["device"] >= 0) & ((calls["flags"] & CollectiveFlags.CAPTURED) == 0))
    if not (len(kernels) and len(known)):
        return
    launch = kernels["launch"]
    bits = _bits(kernels["name"], strings, _kernel_bits)
    asked = _bits(calls["op"], strings, _op_bits)
    found = _Search(calls, known, asked, "begin", "returned").holding(launch, launch, kernels, bits)[0]
    found = np.where(launch >= 0, found, -1)
    behind = np.flatnonzero((launch >= 0) & (found < 0))
    found[behind] = _ended_group(calls, known, asked, kernels[behind], bits[behind])
    blind = np.flatnonzero(launch < 0)
    timed = known[calls["gpu_begin"][known] >= 0]
    if len(blind) and len(timed):
        begin, end = kernels["begin"][blind] + SLACK, kernels["end"][blind] - SLACK
        search = _Search(calls, timed, asked, "gpu_begin", "gpu_end")
        row, fitting = search.holding(begin, np.maximum(begin, end), kernels[blind], bits[blind])
        found[blind] = np.where(fitting == 1, row, -1)
    _fill(kernels, calls, found)


class _Search:
    """The calls at `rows`, by the interval between two of their fields."""

    def __init__(self, calls: np.ndarray, rows: np.ndarray, asked: np.ndarray, begin: str, end: str):
        self._rows = rows[np.argsort(calls[begin][rows], kind="stable")]
        self._begin, self._end = calls[begin][self._rows], calls[end][self._rows]
        self._device, self._asked = calls["device"][self._rows], asked[self._rows]

    def holding(self, begin, end, kernels, bits) -> tuple[np.ndarray, np.ndarray]:
        """Row of the latest fitting call around begin..end (-1: none), and how many of the `NEAR` latest fit."""
        latest = np.searchsorted(self._begin, begin, side="right") - 1
        row, fitting = np.full(len(begin), -1), np.zeros(len(begin), np.int64)
        for back in range(NEAR):
            at = np.maximum(latest - back, 0)
            fits = (latest >= back) & (self._end[at] >= end) & (self._device[at] == kernels["device"])
            fits &= (self._asked[at] & bits) != 0
            row = np.where(fits & (row < 0), self._rows[at], row)
            fitting += fits
        return row, fitting


def _ended_group(calls, known, asked, kernels: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Row of the call that was begun last before each launch, where it is a member of a coalesced group; else -1."""
    begun = np.searchsorted(calls["begin"][known], kernels["launch"], side="right") - 1
    row = known[np.maximum(begun, 0)]
    fits = (begun >= 0) & (calls["coalesced"][row] != 0) & (calls["device"][row] == kernels["device"])
    return np.where(fits & ((asked[row] & bits) != 0), row, -1)


def _fill(kernels: np.ndarray, calls: np.ndarray, found: np.ndarray) -> None:
    own = np.flatnonzero(found >= 0)
    kernels["collective"][own] = calls["id"][found[own]]
    # A unit is what kernels are shared by: one call, or the calls of one coalesced group.
    coalesced = calls["coalesced"].astype(np.int64)
    unit = np.where(coalesced > 0, -coalesced, np.arange(len(calls)))
    units, of = np.unique(unit[found[own]], return_inverse=True)
    if not len(units):
        return
    first, last = np.full(len(units), np.iinfo(np.int64).max), np.zeros(len(units), np.int64)
    np.minimum.at(first, of, kernels["begin"][own])
    np.maximum.at(last, of, kernels["end"][own])
    place = np.minimum(np.searchsorted(units, unit), len(units) - 1)
    hit = units[place] == unit
    place = place[hit]
    calls["kernel_begin"][hit], calls["kernel_end"][hit] = first[place], last[place]
    calls["kernels"][hit] = np.minimum(np.bincount(of, minlength=len(units)), _MOST)[place]
    # The record of a coalesced group stands for the whole of it: what its members share is its own.
    whole = (calls["flags"][hit] & CollectiveFlags.GROUP) != 0
    members = np.bincount(place[~whole], minlength=len(units))
    calls["kernel_calls"][hit] = np.where(whole, 1, np.minimum(members, _MOST)[place])


def _bits(ids: np.ndarray, strings: list[str], of_name) -> np.ndarray:
    used, place = np.unique(ids, return_inverse=True)
    return np.array([of_name(strings[name]) for name in used], np.int64)[place]


def _kernel_bits(name: str) -> int:
    """What the kernel may be doing; anything, where its name does not tell."""
    found = _KERNEL.search(name)
    return _BITS[found[1]] if found else _ANY


def _op_bits(name: str) -> int:
    bare = name.removeprefix("c10d::").lstrip("_")
    kinds = next((kinds for begin, kinds in _RUNS if bare.startswith(begin)), None)
    return sum(_BITS[kind] for kind in kinds.split()) if kinds else _ANY
