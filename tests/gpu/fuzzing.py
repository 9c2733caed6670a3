"""Everything that torch's caching allocator can be asked for, at random, from several threads, one at a time.

Operations are handed to threads in lockstep: between two of them every thread is idle, so torch's counters and a place
in the allocator's events can be read together. Frees are deferred for real: a stream is kept busy before record_stream.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import torch

from gpu.spinning import calibrate, spin

MIB = 1 << 20
LARGEST = 30  # sizes are 2 ** uniform(0, LARGEST)
MOST_TENSORS = 500
LIVE_BYTES = 6000 * MIB  # tensors of one device
LIMIT_BYTES = 8000 * MIB  # what the process may take from one device
THREADS = 4
STREAMS = 4
WEIGHTS = {
    "allocate": 5000, "free": 4000, "free_deferred": 800, "allocate_in_pool": 250, "empty_cache": 30,
    "ask_too_much": 20, "synchronize": 30, "capture": 8, "drop_graph": 5, "drop_pool": 5,
}  # fmt: skip


class Threads:
    """Worker threads that each do one thing when told, while all others wait."""

    def __init__(self, count: int):
        self._orders = [queue.SimpleQueue() for _ in range(count)]
        self._answers = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, args=(orders,), daemon=True) for orders in self._orders]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._threads)

    def run(self, number: int, function, *arguments) -> None:
        """Call it on that thread and wait; raises what it raises."""
        self._orders[number].put((function, arguments))
        error = self._answers.get()
        if error is not None:
            raise error

    def end(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, orders: queue.SimpleQueue) -> None:
        while (order := orders.get()) is not None:
            function, arguments = order
            try:
                function(*arguments)
            except BaseException as error:
                self._answers.put(error)
            else:
                self._answers.put(None)
            del order, function, arguments


@dataclass
class Device:
    """One device's streams, and what is alive there."""

    index: int
    streams: list
    alive: list = field(default_factory=list)
    pools: list = field(default_factory=list)
    graphs: list = field(default_factory=list)  # (graph, its tensors)

    @property
    def live_bytes(self) -> int:
        return sum(tensor.numel() for tensor in self.alive)


class Fuzz:
    """``step()`` does one operation. ``counts``: how many of each were begun, and what came of them: "oom", "captured",
    "deferred"."""

    def __init__(self, seed: int, devices: int = 1):
        self.counts = Counter()
        self._chance = random.Random(seed)
        self._threads = Threads(THREADS)
        self._devices = [self._set_up(index) for index in range(devices)]

    def step(self) -> None:
        (name,) = self._chance.choices(list(WEIGHTS), WEIGHTS.values())
        device = self._chance.choice(self._devices)
        full = len(device.alive) >= MOST_TENSORS or device.live_bytes > LIVE_BYTES
        if full and name.startswith("allocate"):
            name = "free"
        self._do(name, device)

    def end(self) -> None:
        """Every tensor, graph and pool goes, in any order; the threads end."""
        for device in self._devices:
            for name, things in (("drop_graph", device.graphs), ("free", device.alive), ("drop_pool", device.pools)):
                while things:
                    self._do(name, device)
        self._threads.end()

    def _set_up(self, index: int) -> Device:
        with torch.cuda.device(index):
            total = torch.cuda.get_device_properties(index).total_memory
            torch.cuda.set_per_process_memory_fraction(LIMIT_BYTES / total, index)
            calibrate()
            torch.empty(MIB, dtype=torch.uint8, device="cuda").fill_(1)  # a kernel is not loaded inside a capture
            streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(STREAMS - 1))]
            return Device(index, streams)

    def _do(self, name: str, device: Device) -> None:
        self.counts[name] += 1
        self._threads.run(self._chance.randrange(len(self._threads)), self._on_a_thread, name, device)

    def _on_a_thread(self, name: str, device: Device) -> None:
        with torch.cuda.device(device.index), torch.cuda.stream(self._chance.choice(device.streams)):
            getattr(self, f"_{name}")(device)

    # The operations, each with a device and a stream current.

    def _allocate(self, device: Device) -> None:
        size = int(2 ** self._chance.uniform(0, LARGEST))
        tensor = self._try(size)
        if tensor is None:
            # As programs do: room is made and the same is asked again.
            for _ in range(len(device.alive) // 2 + 1):
                self._free(device)
            tensor = self._try(size)
        if tensor is not None:
            device.alive.append(tensor)

    def _try(self, size: int):
        try:
            tensor = torch.empty(size, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            self.counts["oom"] += 1
            return None
        if self._chance.random() < 0.2:
            tensor[: 64 * 1024].fill_(1)
        return tensor

    def _ask_too_much(self, device: Device) -> None:
        assert self._try(LIMIT_BYTES + self._chance.randrange(64 * MIB)) is None

    def _allocate_in_pool(self, device: Device) -> None:
        if not device.pools or (len(device.pools) < 3 and self._chance.random() < 0.1):
            device.pools.append(torch.cuda.MemPool())
        with torch.cuda.use_mem_pool(self._chance.choice(device.pools)):
            tensor = self._try(int(2 ** self._chance.uniform(0, 27)))
        if tensor is not None:
            device.alive.append(tensor)

    def _free(self, device: Device) -> None:
        if device.alive:
            device.alive.pop(self._chance.randrange(len(device.alive)))

    def _free_deferred(self, device: Device) -> None:
        if not device.alive:
            return
        tensor = device.alive.pop(self._chance.randrange(len(device.alive)))
        for stream in self._chance.sample(device.streams, self._chance.choice((1, 1, 2))):
            with torch.cuda.stream(stream):
                spin(self._chance.uniform(20, 1000))
            tensor.record_stream(stream)
        self.counts["deferred"] += 1

    def _empty_cache(self, device: Device) -> None:
        torch.cuda.empty_cache()

    def _synchronize(self, device: Device) -> None:
        torch.cuda.synchronize()

    def _capture(self, device: Device) -> None:
        """A graph with tensors of its own pool, some freed inside; now and then another graph's pool is shared, and a
        deferred free falls into the capture."""
        graph, kept = torch.cuda.CUDAGraph(), []
        share = device.graphs and self._chance.random() < 0.3
        pool = self._chance.choice(device.graphs)[0].pool() if share else None
        stream = self._chance.choice(device.streams[1:])
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._allocate_inside(device, kept)
        except torch.OutOfMemoryError:
            self.counts["oom"] += 1
            return
        self.counts["captured"] += 1
        device.graphs.append((graph, kept))
        if self._chance.random() < 0.5:
            graph.replay()

    def _allocate_inside(self, device: Device, kept: list) -> None:
        for number in range(self._chance.randrange(3, 12)):
            tensor = torch.empty(int(2 ** self._chance.uniform(0, 25)), dtype=torch.uint8, device="cuda")
            tensor[: 64 * 1024].fill_(number)
            if self._chance.random() < 0.5:
                kept.append(tensor)
        if device.alive and self._chance.random() < 0.5:
            outside = device.alive.pop(self._chance.randrange(len(device.alive)))
            outside.record_stream(device.streams[0])

    def _drop_graph(self, device: Device) -> None:
        """The graph first or its tensors first; its pool goes with the next emptying of the cache."""
        if not device.graphs:
            return
        torch.cuda.synchronize()
        graph, kept = device.graphs.pop(self._chance.randrange(len(device.graphs)))
        if self._chance.random() < 0.5:
            device.alive.extend(kept)
        kept.clear()
        graph.reset()

    def _drop_pool(self, device: Device) -> None:
        """Its tensors may outlive it."""
        if device.pools:
            device.pools.pop(self._chance.randrange(len(device.pools)))
