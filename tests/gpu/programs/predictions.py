"""`predictions STEPS`: asks wanhook.memory.check() before each of many random allocations; says where it was wrong."""

import os
import random
import sys
from collections import Counter

import torch

from gpu.processes import say
from wanhook import memory

MIB = 1 << 20
LIMIT = 2000 * MIB
SHOWN = 5
EXPANDABLE = "expandable_segments:True" in os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")


def reserved() -> int:
    return torch.cuda.memory_stats()["reserved_bytes.all.current"]


def allocate(size: int):
    try:
        return torch.empty(size, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return None


def is_right(found: memory.MemoryCheck, tensor, grown: int) -> bool:
    """Whether what happened is what was said; `grown`: reserved bytes."""
    if found.verdict == "no":
        return tensor is None and found.short > 0
    if tensor is None:
        return False
    if found.verdict == "after freeing":
        return found.limit_left < found.needs
    if found.verdict == "free block":
        return grown == 0
    return 0 < grown <= found.needs if EXPANDABLE else grown == found.needs


def main(steps: str) -> None:
    torch.cuda.init()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(LIMIT / total)
    chance, alive = random.Random(5), []
    streams = [torch.cuda.current_stream(), torch.cuda.Stream()]
    verdicts, wrong = Counter(), []
    for step in range(int(steps)):
        size = int(2 ** chance.uniform(0, 30)) if chance.random() < 0.7 else chance.randrange(MIB, 1200 * MIB)
        with torch.cuda.stream(chance.choice(streams)):
            found, before = memory.check(size / (1 << 30)), reserved()
            tensor = allocate(size)
        verdicts[found.verdict] += 1
        grown = reserved() - before
        if not is_right(found, tensor, grown):
            wrong.append(f"step {step}: {size} bytes, {found}, got it: {tensor is not None}, reserved grew by {grown}")
        if tensor is not None:
            alive.append(tensor)
        del tensor
        while alive and (len(alive) > 40 or chance.random() < 0.5):
            alive.pop(chance.randrange(len(alive)))
    alive.clear()
    cached, given_back = reserved(), memory.clear()
    say({"verdicts": verdicts, "wrong": wrong[:SHOWN], "cached": cached, "given_back": given_back, "left": reserved()})


if __name__ == "__main__":
    main(*sys.argv[1:])
