"""A made-up load of two ranks on one host, as Wan's constructor goes: rank 0 reads T5 from disk while rank 1, which
found it in the page cache, waits for it at a barrier. Times in ns after the start."""

from __future__ import annotations

from pathlib import Path

from made_trace import TraceBuilder

SECOND = 1_000_000_000
GIB = 1 << 30
T5, DIT = 8 * GIB, 26 * GIB


def figures(cpu: int, storage: int, calls: int, **more) -> dict:
    """What wanhook.loading writes: CPU seconds, bytes from storage and by read()."""
    found = {"thread_cpu_ns": cpu * SECOND, "process_cpu_ns": 2 * cpu * SECOND, "storage_bytes": storage}
    found |= {"read_call_bytes": calls, "major_faults": 7, "minor_faults": 900, "shared": False}
    found |= {"resident_bytes_begin": GIB, "resident_bytes_end": 3 * GIB}
    return found | {"resident_file_bytes_begin": GIB, "resident_file_bytes_end": GIB} | more


class LoadingRank:
    """Writes one rank's load into `builder`."""

    def __init__(self, builder: TraceBuilder) -> None:
        self.builder = builder
        self.allocated = 0

    def component(self, name: str, begin: int, end: int, parent: int, measured: dict | None, gpu: int, **args) -> int:
        """One scope from second `begin` to `end`, with samples at its edges on a GPU."""
        builder = self.builder
        scope = builder.scope(name, begin * SECOND, end * SECOND, parent=parent, args=args or None)
        if builder.device >= 0:
            builder.sample(begin * SECOND, edge="scope_begin", scope=scope, allocated=self.allocated)
            self.allocated += gpu
            builder.sample(end * SECOND, edge="scope_end", scope=scope, allocated=self.allocated)
        if measured is not None:
            builder.mark("load measured", end * SECOND - 1000, scope=scope, args=measured)
        return scope

    def load(self, t5_ends: int, from_disk: bool) -> int:
        """load, 0 to 30: load_t5 until `t5_ends`, a barrier until 10, load_dit high_noise until 20, configure until
        30."""
        told = {"pipeline": "WanT2V", "use_sp": True, "dit_fsdp": True, "t5_fsdp": False}
        whole = figures(10, (T5 if from_disk else 0) + DIT // 2, T5 + 1000)
        load = self.component("load", 0, 30, 0, whole, T5 + DIT, **told)
        self.allocated = 0
        t5 = figures(2, T5 if from_disk else 0, T5, checkpoint_bytes=T5)
        self.component("load_t5", 0, t5_ends, load, t5, T5)
        self.builder.scope("barrier_wait", t5_ends * SECOND, 10 * SECOND, parent=load)
        dit = figures(4, DIT // 2, 1000, checkpoint_bytes=DIT, resident_file_bytes_end=GIB + DIT)
        self.component("load_dit", 10, 20, load, dit, 0, expert="high_noise")
        self.component("configure", 20, 30, load, None, DIT, expert="high_noise")
        return load


def loading_rank(rank: int, *, t5_ends: int, from_disk: bool, device: str = "cuda", **fields) -> TraceBuilder:
    builder = TraceBuilder(rank=rank, world_size=2, device=device, device_index=rank, **fields)
    LoadingRank(builder).load(t5_ends, from_disk)
    return builder


def save_load(directory: Path, device: str = "cuda") -> Path:
    for rank, t5_ends in ((0, 9), (1, 3)):
        builder = loading_rank(rank, t5_ends=t5_ends, from_disk=rank == 0, device=device)
        builder.end(31 * SECOND)
        builder.save(directory / f"rank{rank:05d}-{rank}-0.wanhook")
    return directory
