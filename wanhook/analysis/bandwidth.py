"""What nccl-tests would call the size of a call, its algbw and its busbw (nccl-tests, doc/PERFORMANCE.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Operation:
    """`size` names how the size follows from the bytes a rank puts in and gets out: "in", "out", "either" (the larger:
    in-place and one-sided ops fill one of the two), "in x n", "out x n", or None for ops that move no payload. `factor`
    names the part of the size that a link carries: "1", "(n-1)/n" or "2(n-1)/n"."""

    name: str
    size: str | None
    factor: str


_ALL_TO_ALL = Operation("all_to_all", "in", "(n-1)/n")
_ALL_GATHER = Operation("all_gather", "out", "(n-1)/n")
_REDUCE_SCATTER = Operation("reduce_scatter", "in", "(n-1)/n")
_ALL_REDUCE = Operation("all_reduce", "either", "2(n-1)/n")
_GATHER = Operation("gather", "in x n", "(n-1)/n")
_RECV = Operation("recv", "either", "1")
_BARRIER = Operation("barrier", None, "1")

# Keys are the dispatcher's names in the library c10d.
_OPERATIONS = {
    "alltoall_": _ALL_TO_ALL,
    "alltoall_base_": _ALL_TO_ALL,
    "allgather_": _ALL_GATHER,
    "_allgather_base_": _ALL_GATHER,
    "allgather_coalesced_": _ALL_GATHER,
    "allgather_into_tensor_coalesced_": _ALL_GATHER,
    "reduce_scatter_": _REDUCE_SCATTER,
    "_reduce_scatter_base_": _REDUCE_SCATTER,
    "reduce_scatter_tensor_coalesced_": _REDUCE_SCATTER,
    "allreduce_": _ALL_REDUCE,
    "allreduce_coalesced_": _ALL_REDUCE,
    "broadcast_": Operation("broadcast", "either", "1"),
    "reduce_": Operation("reduce", "in", "1"),
    "gather_": _GATHER,
    "gather_into_tensor_": _GATHER,
    "scatter_": Operation("scatter", "out x n", "(n-1)/n"),
    "send": Operation("send", "either", "1"),
    "recv_": _RECV,
    "recv_any_source_": _RECV,
    "barrier": _BARRIER,
    "monitored_barrier_": _BARRIER,
}


def operation(op: str) -> Operation:
    """What a c10d op is; an op of a torch version not known here keeps its name and gets no bandwidth."""
    bare = op.removeprefix("c10d::")
    return _OPERATIONS.get(bare, Operation(bare, None, "1"))


def payload(op: Operation, bytes_in: np.ndarray, bytes_out: np.ndarray, ranks: int) -> np.ndarray | None:
    """The size of each call in bytes, int64, shape (n,); None for an op without payload."""
    sizes = {
        "in": bytes_in,
        "out": bytes_out,
        "either": np.maximum(bytes_in, bytes_out),
        "in x n": bytes_in * ranks,
        "out x n": bytes_out * ranks,
    }
    return sizes[op.size] if op.size else None


def bus_factor(op: Operation, ranks: int) -> float:
    """busbw / algbw in a group of `ranks` members."""
    share = (ranks - 1) / ranks if ranks > 0 else 0.0
    return {"1": 1.0, "(n-1)/n": share, "2(n-1)/n": 2 * share}[op.factor]
