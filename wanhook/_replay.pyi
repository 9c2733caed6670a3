"""The block model of torch's CUDA caching allocator, driven by recorded events. Knows neither torch nor CUDA.

Position p is the state after the first p events of one device; there are len(events) + 1 positions.
"""

from collections.abc import Sequence

import numpy as np

COUNTERS: np.dtype
"""requested, allocated, active, reserved, inactive_split, free, largest_free: int64, bytes.

As torch counts them; free = reserved - active; largest_free = the largest single free block, -1 when not asked for. On
the host the last four are 0 (largest_free -1): a CPU allocator has no segments."""

BLOCK_LIFE: np.dtype
"""address u8, size i8 (bytes of the block), requested i8, begin i8, freed i8, end i8, scope i8, stream u8, segment i4.

Positions: it lives at begin <= p < end, is allocated while p < freed, and waits for its free while freed <= p < end. Of
a block that is there to the end, freed and end are len(events) + 1. scope: that of its ALLOC event; -1 from the first
known state (allocated before the recording); -2 from a later one and not matched with a live block of the same address
and size. segment: row in `segments`, -1 on the host."""

SEGMENT_LIFE: np.dtype
"""address u8, size i8 (the largest it reached), begin i8, end i8, scope i8, stream u8, pool u4, large u1,
expandable u1.

One row a cudaMalloc or an expandable segment. scope: of the event that made it, or -1 or -2 as above."""

CONTRADICTION: np.dtype
"""position i8 (the state that the event contradicts), kind u1, address u8, size u8."""

CONTRADICTION_KINDS: dict[int, str]

EPOCH: np.dtype
"""begin i8, end i8, inexact_from i8, known u1: positions begin <= p < end behind one known state (known 1) or none.

From inexact_from on, until the end, figures are an estimate and nothing is claimed; end when exact to the end, begin
when nothing is known."""

SEGMENT: np.dtype
"""address u8, total u8, allocated u8, active u8, requested u8, stream u8, pool u4, blocks u4, flags u1 (SegmentFlags).

As torch's snapshot: an expandable segment has one row a contiguous mapped piece."""

BLOCK: np.dtype
"""address u8, size u8, requested u8 (0 when inactive), segment u8 (its address), scope i8, state u1 (BlockState)."""

class Settings:
    """The allocator settings that decide sizes of blocks. ValueError for values that torch would not take."""

    def __init__(
        self,
        *,
        max_split_size: int = -1,
        roundup_power2_divisions: Sequence[int] = (),
        large_segment_size: int = 20 << 20,
        expandable_segments: bool = False,
        garbage_collection_threshold: float = 0.0,
    ) -> None:
        """max_split_size: bytes, -1 for no limit. roundup_power2_divisions: empty, or 16 numbers for the powers of two
        from 1 MiB on (0 and 1: off)."""

    @property
    def max_split_size(self) -> int: ...
    @property
    def roundup_power2_divisions(self) -> tuple[int, ...]: ...
    @property
    def large_segment_size(self) -> int: ...
    @property
    def expandable_segments(self) -> bool: ...
    @property
    def garbage_collection_threshold(self) -> float: ...
    def block_size(self, requested: int) -> int:
        """Bytes that a request takes up when the rest of the free block is split off."""

class KnownState:
    """The allocator's state at a position, from a snapshot: the replay starts over from it.

    segments, blocks: structured arrays with the columns of a Snapshot's, in any order. On the host only
    blocks count."""

    def __init__(self, position: int, segments: np.ndarray, blocks: np.ndarray) -> None: ...
    @property
    def position(self) -> int: ...

class Replay:
    """What a replay found; arrays of the dtypes above."""

    @property
    def counters(self) -> np.ndarray:
        """COUNTERS, shape (len(events) + 1,)."""
    @property
    def blocks(self) -> np.ndarray:
        """BLOCK_LIFE, by begin; empty when not asked for."""
    @property
    def segments(self) -> np.ndarray:
        """SEGMENT_LIFE, by begin."""
    @property
    def contradictions(self) -> np.ndarray:
        """CONTRADICTION, the first 10 000, by position."""
    @property
    def contradiction_count(self) -> int: ...
    @property
    def exact(self) -> np.ndarray:
        """EPOCH, by begin; together they cover all positions."""
    def address_map(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(SEGMENT, BLOCK) rows by address at a position of maps_at; KeyError for another one, and for maps beyond the
        first len(events) + 2**20 blocks in all."""
    def exact_at(self, positions: np.ndarray) -> np.ndarray:
        """bool, the shape of positions (int64, one dimension): where the figures are claimed to be torch's own."""

def replay(
    events: np.ndarray,
    states: Sequence[KnownState],
    settings: Settings,
    *,
    host: bool = False,
    complete_from_start: bool = False,
    largest_free: bool = True,
    blocks: bool = True,
    maps_at: Sequence[int] = (),
    unknown_from: Sequence[int] = (),
) -> Replay:
    """Play the events of one device.

    events: ALLOCATOR_EVENT rows in the allocator's order, not copied. states: by position; before the first one nothing
    is claimed unless complete_from_start (the device was empty at position 0). A state counts from its position on: the
    state that was replayed up to there is that of the position before. host: CPU tensors, without segments, rounding
    and deferred frees. unknown_from: positions behind which events may be missing unnoticed (a pause), until the next
    known state. ValueError for what is not such an array, position or order.
    """
