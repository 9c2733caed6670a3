"""`allocations MOMENT DIRECTORY`: allocates under a recording; CUDA comes up `before` or `after` `import wanhook`, or
`during` the recording. Says how torch's counters grew while it recorded."""

import sys

import torch

from gpu.allocating import counters, growth, random_operations
from gpu.processes import say


def main(moment: str, directory: str) -> None:
    if moment == "before":
        torch.zeros(1, device="cuda")
    import wanhook

    wanhook.mark("imports the recording half")
    if moment == "after":
        torch.zeros(1, device="cuda")
    keep = None
    if moment != "during":
        keep = torch.empty(40 << 20, dtype=torch.uint8, device="cuda")
    wanhook.start(directory)
    if moment == "during":
        torch.cuda.init()
        # A scope is timed from the moment on at which the process has a context, and it never makes one itself.
        torch.cuda.synchronize()
    before = counters()
    with wanhook.trace("work"):
        random_operations(seed=3, count=300)
        late = torch.ones(25 << 20, device="cuda")
    torch.cuda.synchronize()
    answer = {
        "growth": growth(before),
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
    }
    wanhook.stop(wait=10)
    del keep, late
    say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
