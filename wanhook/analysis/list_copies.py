"""Which collectives torch copies beside: on their own stream and within their interval, beyond NCCL's kernel.

In list form NCCL works on one flat buffer. torch's ProcessGroupNCCL copies an all_gather's outputs out of it behind the
kernel and a reduce_scatter's inputs into it before the kernel, one copy a rank; the root of a gather or scatter copies
its own part before the kernel. all_to_all takes lists as they are, and the `_base_` forms have one tensor. Lists of
different sizes are broadcast or reduced without copies; nothing in a trace tells, so what is said here holds for them
without being tight.
"""

from __future__ import annotations

import numpy as np

_BEHIND = {"allgather_"}
_BEFORE = {"reduce_scatter_", "gather_", "scatter_"}


def copied(strings: list[str], ops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether copies come before the kernel, whether they come behind it), bool[n] each, of ops by their place in the
    trace's `strings`."""
    bare = [text.removeprefix("c10d::") for text in strings]
    return tuple(np.isin(ops, [at for at, text in enumerate(bare) if text in names]) for names in (_BEFORE, _BEHIND))
