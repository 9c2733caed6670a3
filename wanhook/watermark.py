"""The watermark (WANHOOK_WARN_AT): a mark and a line on stderr where stages begin or end with that much memory in use.

What is compared is the share of the whole GPU's memory that is in use, by torch, by the rest of this process and by
others: that is what the next cudaMalloc can run into.
"""

from wanhook import metadata, settings
from wanhook._native import load as load_native

_C = load_native()

MARK = "memory watermark"
MOST_PATHS = 1000  # a program may invent names without end

_marked: set[str] = set()


def watch(share: float | None) -> None:
    """From now on, for the recording that begins; ``share`` above 0 and up to 1, None for no watermark."""
    _marked.clear()
    _C.set_watermark(share, lambda used, path: _reached(used, path, share))


def _reached(used: float, path: str, share: float) -> None:
    """The stage ``path`` begins or ends with the share ``used`` in use; said once a path, marked once a recording."""
    if path in _marked or len(_marked) >= MOST_PATHS:
        return
    _marked.add(path)
    _C.mark(MARK, used=round(used, 4), path=path, warn_at=share)
    rank = metadata.rank()
    settings.complain(
        f"{'' if rank is None else f'rank {rank}: '}{used:.1%} of the GPU's memory is in use in stage {path} "
        f"(WANHOOK_WARN_AT={share:g}). The report says who holds it; wanhook.memory.clear() gives back the cache.",
        about=f"watermark {path}",
    )
