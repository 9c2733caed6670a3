"""Events of torch's caching allocator, written into a TraceBuilder as a tidy program would leave them.

    device = MadeAllocator(builder)              # an empty device at time 0
    segment = device.segment(20 * MIB, at=10)    # its address
    block = device.alloc(segment, 2 * MIB, at=11, scope=step)
    device.free(block, at=20)

Sizes are multiples of 512 bytes and leave remainders that torch would split off, so a block is as large as asked for.
"""

from __future__ import annotations

from made_trace import TraceBuilder
from wanhook.tracefile.format import AllocatorAction, BlockState, SegmentFlags

MIB = 1 << 20
FIRST_SEGMENT, APART = 0x7F0000000000, 1 << 36


class MadeAllocator:
    """Knows what it has written: `state()` gives segments and blocks for TraceBuilder.snapshot. `stream` is that of all
    segments and blocks unless told otherwise. `begin=False` writes no snapshot of the empty device."""

    def __init__(self, builder: TraceBuilder, *, stream: int = 7, begin: bool = True) -> None:
        self.builder, self.stream = builder, stream
        self.segments: dict[int, tuple[int, int]] = {}
        self.blocks: dict[int, int] = {}
        self._made = 0
        if begin:
            builder.snapshot(0, reason="start")

    def segment(self, size: int, at: int, *, stream: int | None = None, **fields) -> int:
        address = FIRST_SEGMENT + APART * self._made
        self._made += 1
        self.segments[address] = size, self.stream if stream is None else stream
        self.builder.segment(address, size, at, stream=self.segments[address][1], **fields)
        return address

    def drop_segment(self, address: int, at: int, **fields) -> None:
        size, stream = self.segments.pop(address)
        self.builder.allocator(AllocatorAction.SEGMENT_FREE, address, size, at, stream=stream, **fields)

    def alloc(self, address: int, size: int, at: int, **fields) -> int:
        self.blocks[address] = size
        self.builder.alloc(address, size, at, stream=self._stream_of(address), **fields)
        return address

    def free(self, address: int, at: int, **fields) -> None:
        """A free that is completed at once."""
        self.builder.free(
            address, self.blocks.pop(address), at, completed=at, stream=self._stream_of(address), **fields
        )

    def request_free(self, address: int, at: int, **fields) -> None:
        self.builder.free(address, self.blocks[address], at, stream=self._stream_of(address), **fields)

    def complete_free(self, address: int, at: int, **fields) -> None:
        size = self.blocks.pop(address)
        self.builder.allocator(
            AllocatorAction.FREE_COMPLETED, address, size, at, stream=self._stream_of(address), **fields
        )

    def out_of_memory(self, size: int, device_free: int, at: int, **fields) -> None:
        fields = {"stream": self.stream, **fields}
        self.builder.allocator(AllocatorAction.OOM, device_free, size, at, **fields)

    def snapshot(self, at: int, reason: str = "stop", **fields) -> None:
        """The state as it should be now, with its totals."""
        segments, blocks = self.state()
        live = sum(self.blocks.values())
        totals = {"allocated": live, "active": live, "requested": live}
        totals["reserved_bytes"] = sum(size for size, _ in self.segments.values())
        self.builder.snapshot(at, segments, blocks, reason=reason, **(totals | fields))

    def state(self) -> tuple[list[dict], list[dict]]:
        """Fields of the SegmentState and BlockState records, by address; blocks tile their segments."""
        segments, blocks = [], []
        for address, (size, stream) in sorted(self.segments.items()):
            inside = tiles(address, size, self.blocks)
            used = sum(block["size"] for block in inside if block["state"] == BlockState.ALLOCATED)
            totals = {"allocated": used, "active": used, "requested": used, "blocks": len(inside)}
            large = SegmentFlags.LARGE if size > 2 * MIB else 0
            segments.append({"address": address, "total": size, "stream": stream, "flags": large, **totals})
            blocks += inside
        return segments, blocks

    def inactive_split(self) -> int:
        """Free bytes in segments that are partly used."""
        used = [
            (size, sum(self.blocks[place] for place in self.blocks if address <= place < address + size))
            for address, (size, _) in self.segments.items()
        ]
        return sum(size - live for size, live in used if live)

    def _stream_of(self, address: int) -> int:
        return next((own for base, (size, own) in self.segments.items() if base <= address < base + size), self.stream)


def tiles(address: int, size: int, live: dict[int, int]) -> list[dict]:
    """BlockState fields that tile the segment: the live blocks (address -> size) in it, and free ones between."""
    found, at = [], address
    inside = sorted((place, length) for place, length in live.items() if address <= place < address + size)
    for place, length in [*inside, (address + size, 0)]:
        if place > at:
            found.append({"address": at, "size": place - at, "segment": address, "state": BlockState.INACTIVE})
        if length:
            found.append({"address": place, "size": length, "requested": length, "segment": address})
        at = place + length
    return [{"state": BlockState.ALLOCATED, **block} for block in found]
