"""Where torch's caching allocator would take an allocation from, told from a memory snapshot; nothing is allocated.

The order is the allocator's own: a free block of the stream's pool, new memory of the device, new memory after all
cached memory was given back, and else an out-of-memory error. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
_SMALLEST_BLOCK = 512
_LARGEST_SMALL = MIB  # requests up to here are served from segments of 2 MiB
_PAGE = 2 * MIB
_LARGEST_WASTE = 20 * MIB  # of a block above max_split_size
_LARGEST_SHARED = 10 * MIB  # requests below share segments of `large_segment_size`


@dataclass(frozen=True)
class Rules:
    """The allocator's settings that decide where an allocation fits; ``max_split_size`` 0 for no limit,
    ``divisions`` by power of two from 1 MiB on, () for none."""

    max_split_size: int = 0
    divisions: tuple[int, ...] = ()
    large_segment_size: int = 20 * MIB
    expandable_segments: bool = False

    @classmethod
    def of(cls, settings: dict) -> Rules:
        """From ``allocator_settings`` of torch's snapshot; what it does not tell is taken as torch's default."""
        split = settings.get("max_split_size", 0)
        divisions = settings.get("roundup_power2_divisions") or {}
        configuration = str(settings.get("PYTORCH_ALLOC_CONF") or settings.get("PYTORCH_CUDA_ALLOC_CONF") or "")
        return cls(
            max_split_size=split if isinstance(split, int) and 0 < split < 1 << 62 else 0,
            divisions=tuple(int(divisions[key]) for key in sorted(divisions, key=int)),
            large_segment_size=_large_segment_size(configuration),
            expandable_segments=bool(settings.get("expandable_segments", False)),
        )

    def block_size(self, asked: int) -> int:
        """What a block for that request holds at least."""
        if asked < _SMALLEST_BLOCK:
            return _SMALLEST_BLOCK
        order = asked.bit_length() - 21
        divisions = self.divisions[min(max(order, 0), len(self.divisions) - 1)] if self.divisions else 0
        if divisions > 1 and asked > _SMALLEST_BLOCK * divisions:
            step = (1 << asked.bit_length() - 1) // divisions
            return _up(asked, step) if step else 1 << asked.bit_length()
        return _up(asked, _SMALLEST_BLOCK)

    def page(self, small: bool) -> int:
        """By what an expandable segment of that class grows."""
        return _PAGE if small else self.large_segment_size

    def segment_size(self, block: int) -> int:
        """Of a new segment for a block of that size; the limit of the process is compared with it in every case."""
        if block <= _LARGEST_SMALL:
            return _PAGE
        return self.large_segment_size if block < _LARGEST_SHARED else _up(block, _PAGE)

    def asked_of_device(self, block: int) -> int:
        """For a block of that size; at most, with expandable segments: one that ends in free bytes grows by less."""
        return _up(block, self.page(block <= _LARGEST_SMALL)) if self.expandable_segments else self.segment_size(block)

    def may_use(self, free: int, block: int) -> bool:
        """Whether a free block of ``free`` bytes may serve one of ``block`` bytes."""
        if free < block or not self.max_split_size:
            return free >= block
        if block < self.max_split_size:
            return free < self.max_split_size
        return free < block + _LARGEST_WASTE


@dataclass(frozen=True)
class Fit:
    """``verdict``: "free block", "device", "after freeing" or "no". ``needs``: bytes asked of the device (with
    expandable segments: at most), 0 for a free block. ``largest_free_block``: of those that this stream could use for a
    request of that class; ``free``: all free bytes of the cache; ``freeable``: what emptying the cache would give back;
    ``short``: bytes missing for "no"."""

    verdict: str
    needs: int
    largest_free_block: int
    free: int
    freeable: int
    short: int


def fit(asked: int, segments: list[dict], rules: Rules, stream: int, device_free: int, limit_left: int) -> Fit:
    """``segments``: those of one device, as torch.cuda.memory_snapshot() gives them. ``limit_left``: what
    set_per_process_memory_fraction still allows this process to take from the device."""
    block = rules.block_size(asked)
    own = [segment for segment in segments if _serves(segment, stream, block <= _LARGEST_SMALL)]
    usable = [size for segment in own for size in _free_blocks(segment)]
    free = sum(size for segment in segments for size in _free_blocks(segment))
    freeable = sum(_freeable(segment, rules) for segment in segments)
    found = {"largest_free_block": max(usable, default=0), "free": free, "freeable": freeable}
    if any(rules.may_use(size, block) for size in usable):
        return Fit("free block", needs=0, short=0, **found)
    needs = rules.asked_of_device(block)
    missing = max(needs - device_free, rules.segment_size(block) - limit_left)
    verdict = "device" if missing <= 0 else "after freeing" if missing <= freeable else "no"
    return Fit(verdict, needs=needs, short=max(0, missing - freeable), **found)


def _serves(segment: dict, stream: int, small: bool) -> bool:
    kind = "small" if small else "large"
    return (segment["stream"], segment["segment_type"], _pool(segment)) == (stream, kind, (0, 0))


def _pool(segment: dict) -> tuple[int, int]:
    return tuple(segment.get("segment_pool_id", (0, 0)))


def _free_blocks(segment: dict) -> list[int]:
    return [block["size"] for block in segment["blocks"] if block["state"] == "inactive"]


def _freeable(segment: dict, rules: Rules) -> int:
    """Emptying the cache waits for blocks whose free is pending; an expandable segment gives back whole pages."""
    if _pool(segment) != (0, 0):
        return 0
    free = [block["state"] != "active_allocated" for block in segment["blocks"]]
    if not segment.get("is_expandable"):
        return segment["total_size"] if all(free) else 0
    page = rules.page(segment["segment_type"] == "small")
    total = offset = begin = 0  # free since begin
    for block, is_free in zip(segment["blocks"], free, strict=True):
        if not is_free:
            total += max(0, offset // page - -(-begin // page)) * page
            begin = offset + block["size"]
        offset += block["size"]
    return total + max(0, offset // page - -(-begin // page)) * page


def _large_segment_size(configuration: str) -> int:
    for option in configuration.replace(" ", "").split(","):
        name, _, value = option.partition(":")
        if name == "large_segment_size_mb" and value.isdecimal():
            return int(value) * MIB
    return 20 * MIB


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
