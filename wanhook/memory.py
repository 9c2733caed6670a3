"""What a script can ask about a GPU's memory, without a recording: info(), check() and clear().

Sizes are bytes. ``device`` is whatever torch.cuda takes, the current device by default. Like torch.cuda's own
functions these initialise CUDA where the program has not yet, and info() and check() ask the driver: not while a graph
is captured.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

_GIB = 1 << 30
_NO_GPU = (
    "wanhook.memory tells of a GPU's memory, and torch sees no GPU here: look at CUDA_VISIBLE_DEVICES and at "
    "torch.version.cuda. Memory of CPU runs is in the recording: wanhook.load() and python -m wanhook.report."
)


@dataclass(frozen=True)
class MemoryInfo:
    """The state of one device's allocator, as torch counts it, and of the device, as the driver does.

    ``largest_free_block``: in the allocator's cache, over all of its pools and streams. ``device_free`` and
    ``device_total``: of the whole device, everybody's use counted.
    """

    device: int
    allocated: int
    reserved: int
    active: int
    requested: int
    largest_free_block: int
    device_free: int
    device_total: int


@dataclass(frozen=True)
class MemoryCheck:
    """Where an allocation of ``asked`` bytes on the current stream would come from now. True when it fits.

    ``verdict``: "free block" (of the cache), "device" (new memory), "after freeing" (torch would empty its cache first,
    which waits for the GPU), "no", or "unknown" where there is no GPU to ask. ``short``: bytes missing for "no".
    ``needs``: bytes that would be asked of the device; at most, with expandable segments. ``largest_free_block``: of
    those that could serve it; ``free``: all free bytes of the cache; ``freeable``: what emptying the cache gives back;
    ``device_free``: by the driver; ``limit_left``: by set_per_process_memory_fraction. ``text``: one sentence.
    """

    fits: bool
    verdict: str
    text: str
    asked: int
    short: int = 0
    needs: int = 0
    largest_free_block: int = 0
    free: int = 0
    freeable: int = 0
    device_free: int = 0
    limit_left: int = 0

    def __bool__(self) -> bool:
        return self.fits


def info(device=None) -> MemoryInfo:
    """The device's memory now. RuntimeError, with the remedy, on a machine without a GPU."""
    torch = _torch_with_gpu()
    index = _index(torch, device)
    device_free, device_total = torch.cuda.mem_get_info(index)
    stats = torch.cuda.memory_stats(index)
    blocks = [block for segment in _snapshot(torch, index)["segments"] for block in segment["blocks"]]
    return MemoryInfo(
        device=index,
        **{
            name: stats.get(f"{name}_bytes.all.current", 0) for name in ("allocated", "reserved", "active", "requested")
        },
        largest_free_block=max((block["size"] for block in blocks if block["state"] == "inactive"), default=0),
        device_free=device_free,
        device_total=device_total,
    )


def check(gib: float, device=None) -> MemoryCheck:
    """Whether an allocation of that many GiB would succeed now, by the allocator's own rules; allocates nothing.

    It tells of the current stream and torch's default pool. Raises nothing about the state of the GPU: what cannot be
    asked is "unknown". Another thread or process can take the memory right after.
    """
    from wanhook.allocation_fit import Rules, fit

    asked = max(0, round(gib * _GIB))
    try:
        torch = _torch_with_gpu()
        index = _index(torch, device)
        snapshot = _snapshot(torch, index)
        device_free, device_total = torch.cuda.mem_get_info(index)
        limit_left = _limit_left(torch, index, device_total, snapshot["segments"])
        stream = torch.cuda.current_stream(index).cuda_stream
        rules = Rules.of(snapshot.get("allocator_settings", {}))
        found = fit(asked, snapshot["segments"], rules, stream, device_free, limit_left)
    except RuntimeError as error:  # no GPU, or an error of CUDA
        return MemoryCheck(False, "unknown", str(error), asked)
    figures = {**vars(found), "device_free": device_free, "limit_left": limit_left}
    return MemoryCheck(fits=found.verdict != "no", text=_text(asked, figures), asked=asked, **figures)


def clear() -> int:
    """Collects garbage, empties torch's cache on all GPUs and returns the bytes that went back to the driver; 0 where
    CUDA was never used."""
    gc.collect()
    import torch

    if not torch.cuda.is_initialized():
        return 0
    before = _reserved(torch)
    torch.cuda.empty_cache()
    return max(0, before - _reserved(torch))


def _torch_with_gpu():
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(_NO_GPU)
    return torch


def _index(torch, device) -> int:
    return torch.cuda._utils._get_device_index(device, optional=True)


def _snapshot(torch, index: int) -> dict:
    """Segments of one device and the allocator's settings; the trace history, which can be huge, is left out where this
    torch can."""
    torch.cuda.init()
    try:
        taken = torch._C._cuda_memorySnapshot((0, 0, False))
    except (TypeError, RuntimeError):
        taken = torch._C._cuda_memorySnapshot(None)
    segments = [segment for segment in taken["segments"] if segment["device"] == index]
    return {**taken, "segments": segments}


def _limit_left(torch, index: int, device_total: int, segments: list[dict]) -> int:
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(index)
    return max(0, int(share * device_total) - sum(segment["total_size"] for segment in segments))


def _reserved(torch) -> int:
    return sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count()))


def _text(asked: int, found: dict) -> str:
    """``found``: the figures of MemoryCheck."""

    def mib(size: int) -> str:
        return f"{size / (1 << 20):.1f} MiB"

    largest = mib(found["largest_free_block"])
    if found["verdict"] == "free block":
        return f"{mib(asked)} fit into a free block of the cache: the largest has {largest}."
    cache = f"the cache has {mib(found['free'])} free, {largest} of it in one piece for this stream"
    if found["verdict"] == "device":
        return f"{mib(asked)} fit: {mib(found['needs'])} would come from the device; {cache}."
    if found["verdict"] == "after freeing":
        return f"{mib(asked)} fit once {mib(found['freeable'])} of cache are given back to the device; {cache}."
    limit = min(found["device_free"], found["limit_left"])
    return (
        f"{mib(asked)} do not fit: {mib(found['short'])} are missing. The device can give {mib(limit)}, emptying the "
        f"cache {mib(found['freeable'])} more; {cache}."
    )
