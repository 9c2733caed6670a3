"""How many collectives and allocator events one request must leave in the trace: Wan2.2's code and torch's counters.

Nothing in here is measured. The derivation, by the functions of Wan2.2 and of torch's FSDP (version 1):

- `WanT2V.generate` runs the model twice a solver step (`noise_pred_cond`, `noise_pred_uncond`): forwards = 2 x steps.
- `sp_dit_forward` runs every block once a forward; each block's `sp_attn_forward` calls `distributed_attention` once.
- `distributed_attention` calls `util.all_to_all` for q, k and v (scatter_dim=2) and for the output (scatter_dim=1),
  each one list-form `dist.all_to_all`: 4 x layers x forwards of `alltoall_`.
- `sp_dit_forward` ends with one `gather_forward`, a list-form `dist.all_gather`: 1 x forwards of `allgather_`.
- `shard_model` makes every block an FSDP unit, and the rest of the module the root unit. A block is gathered before its
  forward and freed after it (FULL_SHARD): layers x forwards of `_allgather_base_`. `_post_forward_reshard` does not
  free the root, so under no_grad it stays gathered: the root of each expert and of T5 gathers in the first request that
  uses it and never again. A unit is one flat parameter, thus one collective: all its parameters share a dtype.
- `T5EncoderModel.__call__` runs twice a request (prompt, negative prompt): 2 x t5_layers more of `_allgather_base_`.
- `generate` ends with one `dist.barrier`. The weights' broadcast belongs to loading, not to a request.
"""

from __future__ import annotations

from collections import Counter

# torch.cuda.memory_stats() counts the same moments that the allocator reports to a trace tracker.
ALLOCATOR_COUNTERS = {
    "ALLOC": "allocation.all.allocated",
    "FREE_REQUESTED": "allocation.all.freed",
    "FREE_COMPLETED": "active.all.freed",
    "SEGMENT_ALLOC": "segment.all.allocated",
    "SEGMENT_FREE": "segment.all.freed",
}
# Values of AllocatorAction and AllocatorFlags, as docs/trace-format.md publishes them.
_ACTIONS = {1: "ALLOC", 2: "FREE_REQUESTED", 3: "FREE_COMPLETED", 4: "SEGMENT_ALLOC", 5: "SEGMENT_FREE"}
_FREE_FOLDED = 1


def expected_counts(
    layers: int, steps: int, t5_layers: int, world_size: int, *, first_roots: int = 0, on_gpu: bool = True
) -> dict[tuple[str, str], int]:
    """Collectives of one request on one rank, by (c10d op, role).

    `first_roots` is the number of FSDP roots (of T5, high and low noise model) that this request is the first to use.
    On the CPU the harness exchanges through `alltoall_base_`, and FSDP gathers CPU tensors through `allgather_`.
    A single rank exchanges nothing.
    """
    counts = Counter({("barrier", ""): 1})
    if world_size == 1:
        return dict(counts)
    forwards = 2 * steps
    exchange, unit_gather = ("alltoall_", "_allgather_base_") if on_gpu else ("alltoall_base_", "allgather_")
    counts[exchange, "qkv"] = 3 * layers * forwards
    counts[exchange, "out"] = layers * forwards
    counts["allgather_", "sp_gather"] = forwards
    counts[unit_gather, "fsdp"] = layers * forwards + 2 * t5_layers + first_roots
    return dict(counts)


def by_op(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    """The same counts without roles, for a recording whose collectives nobody tagged."""
    totals: Counter = Counter()
    for (op, _role), count in counts.items():
        totals[op] += count
    return dict(totals)


def recorded_collectives(trace) -> dict[tuple[str, str], int]:
    """Collectives in one rank's `wanhook.Trace`, by (op, role)."""
    pairs = Counter(zip(trace.collectives["op"].tolist(), trace.collectives["role"].tolist(), strict=True))
    return {(trace.strings[op], trace.strings[role]): count for (op, role), count in pairs.items()}


def counter_growth(before: dict, after: dict) -> dict[str, int]:
    """Allocator events between two `torch.cuda.memory_stats()`, by action."""
    return {action: after[key] - before[key] for action, key in ALLOCATOR_COUNTERS.items()}


def recorded_allocator_events(trace, device: int) -> dict[str, int]:
    """Allocator events of one device in one rank's `wanhook.Trace`; a folded FREE_COMPLETED counts as one more."""
    events = trace.allocator_events
    events = events[events["device"] == device]
    counts = {name: int((events["action"] == action).sum()) for action, name in _ACTIONS.items()}
    folded = (events["action"] == 2) & ((events["flags"] & _FREE_FOLDED) != 0)
    counts["FREE_COMPLETED"] += int(folded.sum())
    return counts
