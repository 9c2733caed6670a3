"""When each block of an allocator lived, from its events and snapshots.

Time here is a *position* in the allocator's own order: position p is the state after the first p events of a device. A
block lives at the positions begin <= p < end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wanhook.tracefile.format import AllocatorAction, AllocatorFlags

# Stand in for the scope id of blocks that no event of this recording allocated.
BEFORE_RECORDING, NOT_RECORDED = -1, -2

MOST_BYTES = 1 << 48  # a size beyond it is a damaged one; cut, so that sums stay within int64
STRETCH = 1 << 19  # sorting and gathering this many events stays in the processor's cache
_BLOCK = np.dtype([(name, "i8") for name in ("address", "size", "scope", "begin", "end")])


@dataclass(frozen=True)
class Epoch:
    """Events [begin, end) of a device, and the blocks (requested, not yet completely freed) with which it starts.
    `reserved` is the state at its begin, None where no snapshot tells."""

    begin: int
    end: int
    reserved: int | None
    address: np.ndarray
    size: np.ndarray
    scope: np.ndarray


@dataclass(frozen=True)
class Lifetimes:
    """One row a block, shape (n,). `size` is the requested size in bytes; `scope` a scope id, 0 outside of scopes, or a
    stand-in above. `unknown_frees` had no block to free, `replaced` blocks met an allocation at their own address."""

    size: np.ndarray
    scope: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    unknown_frees: int
    replaced: int

    def alive(self, position: int) -> np.ndarray:
        """bool, shape (n,): which blocks live at a position."""
        return (self.begin <= position) & (position < self.end)

    def live_bytes(self, positions: int) -> np.ndarray:
        """Requested bytes that are live at each position; int64, shape (positions,)."""
        change = np.bincount(self.begin, self.size, positions + 1)
        change -= np.bincount(self.end, self.size, positions + 1)
        return np.cumsum(change[:positions].astype(np.int64))


def is_free(events: np.ndarray) -> np.ndarray:
    """bool, shape (n,): the events at which a block's bytes stop being live, as torch's requested_bytes counts them.

    The CPU allocator (device -1) has no deferred frees.
    """
    action = events["action"]
    requested = action == AllocatorAction.FREE_REQUESTED
    if len(events) and events["device"][0] >= 0:
        requested &= (events["flags"] & AllocatorFlags.FREE_FOLDED) != 0
    return requested | (action == AllocatorAction.FREE_COMPLETED)


def lifetimes(events: np.ndarray, epochs: list[Epoch], stretch: int = STRETCH) -> Lifetimes:
    """events: one device's, in the allocator's order. epochs: consecutive, the last one ends with the events. `stretch`
    events are matched at a time."""
    live, gone = np.empty(0, _BLOCK), []
    unknown = replaced = 0
    for epoch in epochs:
        first = _first_blocks(epoch, live)
        gone.append(_ended(live, epoch.begin))
        live = first
        for begin in range(epoch.begin, epoch.end, stretch):
            part = events[begin : min(begin + stretch, epoch.end)]
            live, ended, strangers, clashes = _advance(live, part, begin)
            gone.append(ended)
            unknown, replaced = unknown + strangers, replaced + clashes
    gone.append(_ended(live, len(events) + 1))
    columns = [np.concatenate([part[name] for part in gone]) for name in ("size", "scope", "begin", "end")]
    return Lifetimes(*columns, unknown, replaced)


def _ended(blocks: np.ndarray, end: int) -> np.ndarray:
    blocks["end"] = end
    return blocks


def _first_blocks(epoch: Epoch, before: np.ndarray) -> np.ndarray:
    """The blocks of the epoch's first state; what was live before, at its address with its size, keeps its owner."""
    blocks = np.zeros(len(epoch.address), _BLOCK)
    blocks["address"], blocks["size"], blocks["scope"] = epoch.address, epoch.size, epoch.scope
    blocks["begin"] = epoch.begin
    if len(before):
        before = before[np.argsort(before["address"], kind="stable")]
        found = before[np.minimum(np.searchsorted(before["address"], blocks["address"]), len(before) - 1)]
        same = (found["address"] == blocks["address"]) & (found["size"] == blocks["size"]) & (blocks["scope"] < 0)
        blocks["scope"][same] = found["scope"][same]
    return blocks


def _advance(live: np.ndarray, events: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Plays the events, of which the first has position `begin`: the blocks that are live afterwards, those that ended,
    and the counts of frees without a block and of allocations at a live address. A block ends at the next event at its
    address, be it a free or, where a free was lost, an allocation."""
    opening = events["action"] == AllocatorAction.ALLOC
    rows = np.flatnonzero(opening | is_free(events))
    opens = np.concatenate([np.ones(len(live), bool), opening[rows]])
    address = np.concatenate([live["address"], events["address"][rows].astype(np.int64)])
    position = np.concatenate([np.full(len(live), begin), rows + (begin + 1)])
    order = np.argsort(address, kind="stable")
    same = np.diff(address[order]) == 0
    opened, opens_next = opens[order][:-1] & same, opens[order][1:]
    end = np.full(len(order), -1)
    end[order[:-1][opened]] = position[order[1:][opened]]
    blocks = np.concatenate([live, np.zeros(int(opening.sum()), _BLOCK)])
    new, allocated = blocks[len(live) :], rows[opening[rows]]
    new["size"] = np.minimum(events["size"][allocated], MOST_BYTES)
    for name in ("address", "scope"):
        new[name] = events[name][allocated]
    new["begin"], blocks["end"] = allocated + (begin + 1), end[opens]
    strangers = int((~opens).sum() - (opened & ~opens_next).sum())
    return blocks[blocks["end"] < 0], blocks[blocks["end"] >= 0], strangers, int((opened & opens_next).sum())
