"""A caching allocator written as plainly as can be, which tells its events: what a replay of them must find.

allocator = MadeAllocator()
block = allocator.alloc(3 << 20)
allocator.free(block)
allocator.events()      # ALLOCATOR_EVENT rows
allocator.truth         # counters, blocks and segments at each position
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wanhook.tracefile.format import AllocatorAction, AllocatorFlags, BlockState
from wanhook.tracefile.tables import ALLOCATOR_EVENT

MIB = 1 << 20
PAGE = 20 * MIB
FIRST, GAP = 6_000_000 * PAGE, 50_000 * PAGE
FREE, USED, PENDING = BlockState.INACTIVE, BlockState.ALLOCATED, BlockState.PENDING_FREE


@dataclass
class Piece:
    address: int
    size: int
    state: BlockState
    requested: int = 0


class MadeAllocator:
    """First fit, default settings; with `expandable`, one growing segment a pool. A segment is a list of Pieces in
    order of addresses, without gaps but for unmapped memory of expandable ones."""

    def __init__(self, *, expandable: bool = False, watched: bool = True) -> None:
        """watched: keep the truth at each position, which takes a look at all blocks each time."""
        self.expandable, self._watched = expandable, watched
        self.segments: list[tuple[bool, list[Piece]]] = []  # (small, pieces)
        self._next = FIRST
        self._rows: list[tuple] = []
        self._sequence = 0
        self.truth: list[dict] = [self._state()]

    # What a program does.

    def alloc(self, requested: int) -> Piece:
        size = max(-(-requested // 512) * 512, 512)
        small = size <= MIB
        pieces, piece = self._find(small, size) or self._grow(small, size)
        rest = piece.size - size
        if rest >= 512 if small or self.expandable else rest > MIB:
            pieces.insert(pieces.index(piece) + 1, Piece(piece.address + size, rest, FREE))
            piece.size = size
        piece.state, piece.requested = USED, requested
        self._event(AllocatorAction.ALLOC, piece.address, requested)
        return piece

    def free(self, piece: Piece, *, deferred: bool = False) -> None:
        piece.state = PENDING
        if deferred:
            self._event(AllocatorAction.FREE_REQUESTED, piece.address, piece.requested)
            return
        address, requested = piece.address, piece.requested
        self._merge(piece)
        self._event(AllocatorAction.FREE_REQUESTED, address, requested, AllocatorFlags.FREE_FOLDED)

    def complete(self, piece: Piece) -> None:
        address, requested = piece.address, piece.requested
        self._merge(piece)
        self._event(AllocatorAction.FREE_COMPLETED, address, requested)

    def empty_cache(self) -> None:
        for small, pieces in list(self.segments):
            if self.expandable:
                self._unmap_free(2 * MIB if small else PAGE, pieces)
            elif len(pieces) == 1 and pieces[0].state is FREE:
                self.segments = [segment for segment in self.segments if segment[1] is not pieces]
                self._event(AllocatorAction.SEGMENT_FREE, pieces[0].address, pieces[0].size)
        self.segments = [segment for segment in self.segments if segment[1]]

    # How it is done.

    def _find(self, small: bool, size: int):
        for kind, pieces in self.segments:
            for piece in pieces:
                if kind == small and piece.state is FREE and piece.size >= size:
                    return pieces, piece
        return None

    def _grow(self, small: bool, size: int):
        page = 2 * MIB if small else PAGE
        if not self.expandable:
            total = page if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            piece = Piece(self._next, total, FREE)
            self._next += total + (2 * MIB)
            self.segments.append((small, [piece]))
            self._event(AllocatorAction.SEGMENT_ALLOC, piece.address, piece.size)
            return self.segments[-1][1], piece
        pieces = next((pieces for kind, pieces in self.segments if kind == small), None)
        if pieces is None:
            pieces = []
            self.segments.append((small, pieces))
            self._next += GAP
        last = pieces[-1] if pieces else None
        missing = size - (last.size if last and last.state is FREE else 0)
        begin = last.address + last.size if last else self._next
        piece = Piece(begin, -(-missing // page) * page, FREE)
        pieces.append(piece)
        mapped = begin, piece.size
        piece = self._merge(piece)
        self._event(AllocatorAction.SEGMENT_MAP, *mapped)
        return pieces, piece

    def _merge(self, piece: Piece) -> Piece:
        (pieces,) = (pieces for _, pieces in self.segments if any(each is piece for each in pieces))
        piece.state, piece.requested = FREE, 0
        index = next(number for number, each in enumerate(pieces) if each is piece)
        for other in (index + 1, index - 1):
            if 0 <= other < len(pieces) and pieces[other].state is FREE and self._touch(pieces[other], piece):
                neighbour = pieces.pop(other)
                piece.address = min(piece.address, neighbour.address)
                piece.size += neighbour.size
        return piece

    @staticmethod
    def _touch(one: Piece, other: Piece) -> bool:
        return one.address + one.size == other.address or other.address + other.size == one.address

    def _unmap_free(self, page: int, pieces: list[Piece]) -> None:
        for piece in [each for each in pieces if each.state is FREE]:
            begin, end = -(-piece.address // page) * page, (piece.address + piece.size) // page * page
            if begin >= end:
                continue
            index = next(number for number, each in enumerate(pieces) if each is piece)
            left = [
                Piece(piece.address, begin - piece.address, FREE),
                Piece(end, piece.address + piece.size - end, FREE),
            ]
            pieces[index : index + 1] = [each for each in left if each.size]
            self._event(AllocatorAction.SEGMENT_UNMAP, begin, end - begin)

    # What it tells.

    def _event(self, action: int, address: int, size: int, flags: int = 0) -> None:
        self._sequence += 1 + bool(flags)
        self._rows.append((action, flags, self._sequence - bool(flags), address, size))
        if self._watched:
            self.truth.append(self._state())

    def _state(self) -> dict:
        runs = [run for _, pieces in self.segments for run in runs_of(pieces)]
        blocks = sorted((piece for run in runs for piece in run), key=lambda piece: piece.address)
        active = [piece for piece in blocks if piece.state is not FREE]
        free = [piece for piece in blocks if piece.state is FREE]
        split = [piece for run in runs if len(run) > 1 for piece in run if piece.state is FREE]
        reserved = sum(piece.size for piece in blocks)
        return {
            "requested": sum(piece.requested for piece in active),
            "allocated": sum(piece.size for piece in blocks if piece.state is USED),
            "active": sum(piece.size for piece in active),
            "reserved": reserved,
            "inactive_split": 0 if self.expandable else sum(piece.size for piece in split),
            "free": reserved - sum(piece.size for piece in active),
            "largest_free": max((piece.size for piece in free), default=0),
            "blocks": [(piece.address, piece.size, int(piece.state), piece.requested) for piece in blocks],
            "segments": sorted((run[0].address, sum(piece.size for piece in run)) for run in runs),
        }

    def events(self) -> np.ndarray:
        rows = np.zeros(len(self._rows), ALLOCATOR_EVENT)
        for column, name in enumerate(("action", "flags", "sequence", "address", "size")):
            rows[name] = [row[column] for row in self._rows]
        rows["time"] = 1000 + np.arange(len(rows)) * 100
        return rows


def runs_of(pieces: list[Piece]) -> list[list[Piece]]:
    """Contiguous pieces, as torch's snapshot reports segments."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and runs[-1][-1].address + runs[-1][-1].size == piece.address:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs
