"""`replay_fuzz DIRECTORY SEED OPERATIONS THREADS`: random work under a recording, and its replay beside torch's words.

Sizes from 1 B to 1 GB, log-uniform, on several streams and threads; record_stream, empty_cache, allocations that fail
under a memory fraction and are tried again, a MemPool, and graphs with their private pool. torch's counters are sampled
at every 20th operation, the whole state at 50 instants.
"""

import os
import random
import sys
import threading
from pathlib import Path

import torch

from gpu.processes import say

MEMORY = 6 << 30  # bytes that the program may use
TARGET = 5 << 30  # of them live
CHECKPOINT, PERIODIC = 5, 0  # StateReason, SampleEdge
PEAKS = {name: f"{name}_bytes.all.peak" for name in ("requested", "allocated", "active", "reserved", "inactive_split")}


class Worker:
    """One thread's tensors. Operations of all threads come one at a time: so a sample belongs to one place."""

    turn = threading.Lock()
    done = 0

    def __init__(self, seed: int, operations: int, whole: int) -> None:
        self.chance = random.Random(seed)
        self.operations, self.whole = operations, whole
        self.streams = [torch.cuda.Stream() for _ in range(3)]
        self.live: list[torch.Tensor] = []
        self.bytes = 0
        self.pool = torch.cuda.MemPool() if hasattr(torch.cuda, "MemPool") else None
        self.graphs: list = []

    def run(self) -> None:
        from wanhook import _C

        for _ in range(self.operations):
            with Worker.turn:
                self.operate()
                Worker.done += 1
                if Worker.done % 20 == 0:
                    _C.sample(PERIODIC)
                if Worker.done % (self.whole // 50) == 0:
                    _C.snapshot(CHECKPOINT)

    def operate(self) -> None:
        if self.chance.random() < (0.7 if self.bytes > TARGET else 0.45):
            self.free_one()
        else:
            self.allocate(int(10 ** self.chance.uniform(0, 9)))
        if self.chance.random() < 0.004:
            torch.cuda.empty_cache()
        if self.chance.random() < 0.001:
            self.capture()

    def allocate(self, size: int) -> None:
        for _ in range(2):
            try:
                self.live.append(self.new_tensor(size))
                self.bytes += size
                return
            except torch.OutOfMemoryError:
                while len(self.live) > 1 and self.bytes > TARGET // 4:
                    self.free_one()

    def new_tensor(self, size: int) -> torch.Tensor:
        stream = self.chance.choice([None, *self.streams])
        with torch.cuda.stream(stream):
            if self.pool is not None and size < 50_000_000 and self.chance.random() < 0.05:
                with torch.cuda.use_mem_pool(self.pool):
                    return torch.empty(size, dtype=torch.uint8, device="cuda")
            return torch.empty(size, dtype=torch.uint8, device="cuda")

    def free_one(self) -> None:
        if not self.live:
            return
        tensor = self.live.pop(self.chance.randrange(len(self.live)))
        self.bytes -= tensor.numel()
        if self.chance.random() < 0.2:
            tensor.record_stream(self.chance.choice(self.streams))

    def capture(self) -> None:
        """A graph with a few temporaries; of two graphs the older one goes. With expandable segments none goes: torch
        2.11 then counts a pool's mappings wrongly, and uses it after it has been deleted."""
        expandable = "expandable" in os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
        if expandable and len(self.graphs) == 4:
            return
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        source = torch.ones(self.chance.randrange(1, 4_000_000), device="cuda")
        with torch.cuda.graph(graph):
            result = (source * 2 + 1).relu_().sum()
        graph.replay()
        kept = self.graphs if expandable else self.graphs[-1:]
        self.graphs = [*kept, (graph, source, result)]


def main(directory: str, seed: str, operations: str, threads: str) -> None:
    torch.zeros(1, device="cuda")
    import wanhook
    from wanhook import _C

    before = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in (100, 3 << 20, 30 << 20)]
    del before[1]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY / total))
    count, each = int(threads), int(operations) // int(threads)
    workers = [Worker(int(seed) + number, each, int(operations)) for number in range(count)]
    wanhook.start(directory)
    torch.cuda.reset_peak_memory_stats()
    _C.snapshot(CHECKPOINT)
    running = [threading.Thread(target=worker.run) for worker in workers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    torch.cuda.synchronize()
    stats = torch.cuda.memory_stats()
    wanhook.stop(wait=10)
    say(compared(Path(directory), {name: stats[key] for name, key in PEAKS.items()}) | {"failed": stats["num_ooms"]})


def compared(directory: Path, peaks: dict[str, int]) -> dict:
    import wanhook
    from wanhook.analysis.device_replay import DeviceReplay
    from wanhook.analysis.replay_check import check_replay

    trace = wanhook.load(directory).traces[0]
    replay = DeviceReplay(trace, torch.cuda.current_device())
    found = check_replay(trace, replay)
    since = replay.checks[0][0]
    ours = {name: int(replay.result.counters[name][since:].max()) for name in peaks}
    return {
        "events": len(replay.events),
        "dropped": trace.health.dropped,
        "places": found.places,
        "equal": found.equal,
        "not_claimed": found.not_claimed,
        "first_difference": str(found.first_difference),
        "refused": found.refused,
        "contradictions": found.contradictions,
        "peaks": {name: [ours[name], peak] for name, peak in peaks.items()},
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # the pools end with the process
