"""Random work for the caching allocator, and torch's own count of it."""

import random

import torch

# torch's counter of each action.
COUNTERS = {
    "ALLOC": "allocation.all.allocated",
    "FREE_REQUESTED": "allocation.all.freed",
    "FREE_COMPLETED": "active.all.freed",
    "SEGMENT_ALLOC": "segment.all.allocated",
    "SEGMENT_FREE": "segment.all.freed",
    "OOM": "num_ooms",
}


def counters() -> dict[str, int]:
    """Events of the current device since the process began, by action."""
    stats = torch.cuda.memory_stats()
    return {action: stats[key] for action, key in COUNTERS.items()}


def growth(before: dict[str, int]) -> dict[str, int]:
    """Events since ``before`` was taken."""
    return {action: count - before[action] for action, count in counters().items()}


def random_operations(seed: int, count: int) -> None:
    """Allocations of all sizes on three streams, frees in any order, some deferred by record_stream."""
    chance = random.Random(seed)
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    alive: list[torch.Tensor] = []
    for _ in range(count):
        if alive and (len(alive) > 120 or chance.random() < 0.45):
            tensor = alive.pop(chance.randrange(len(alive)))
            if chance.random() < 0.2:
                tensor.record_stream(chance.choice(streams))
        else:
            size = int(2 ** chance.uniform(0, 26))
            with torch.cuda.stream(chance.choice(streams)):
                alive.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        if chance.random() < 0.003:
            torch.cuda.empty_cache()
