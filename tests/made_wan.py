"""A made-up recording of a Wan request, small enough to add up by hand.

A request on each rank: text_encode 40 ms, three denoise_steps of 100 ms (the first 180), and on rank 0 a vae_decode of
60 ms. A step holds two blocks of 40 ms; a block four all_to_all of 2 ms on the compute stream 7 (three qkv, one out)
and an all_gather of 12 ms on stream 9, in a group of its own: in one group they would take turns. GPU times are longer
by `slower`; the GPU runs 0.1 ms behind the host.
"""

from __future__ import annotations

from pathlib import Path

from made_allocator import tiles
from made_trace import TraceBuilder
from wanhook.tracefile.format import CollectiveFlags, FileState, SegmentFlags

US = 1_000
MS = 1_000_000
MIB = 1 << 20
LAG = MS // 10
STEPS, BLOCKS = 3, 2
SEGMENT, WEIGHTS, ACTIVATION = 0x7F0000000000, 0x7F0000000000, 0x7F0010000000
GATHER_STREAM = 9


class WanRank:
    """Writes one rank's request into `builder`, from time 0 on (ns)."""

    def __init__(self, builder: TraceBuilder, slower: float = 1.0, on_gpu: bool = True) -> None:
        self.builder, self.slower, self.on_gpu = builder, slower, on_gpu

    def gpu(self, begin: int, end: int) -> tuple[int, int] | None:
        if not self.on_gpu:
            return None
        return begin + LAG, begin + LAG + round((end - begin) * self.slower)

    def scope(self, name: str, begin: int, end: int, parent: int = 0, **fields) -> int:
        return self.builder.scope(name, begin, end, gpu=self.gpu(begin, end), parent=parent, **fields)

    def collective(self, op: str, begin: int, length: int, scope: int, stream: int = 7, **fields) -> None:
        where = {"gpu": self.gpu(begin, begin + length), "stream": stream}
        if not self.on_gpu:
            where = {"completed": begin + length}
        self.builder.collective(op, begin, returned=begin + MS // 50, scope=scope, **where, **fields)

    def request(self, decode: bool) -> int:
        """The whole request; returns the id of its outermost scope."""
        end = 440 * MS + (60 * MS if decode else 0)
        request = self.scope("request", 0, end)
        self.scope("text_encode", 0, 40 * MS, request)
        denoise = self.scope("denoise", 40 * MS, 420 * MS, request)
        begin = 40 * MS
        for step in range(STEPS):
            begin = self.step(begin, 180 * MS if step == 0 else 100 * MS, denoise, step)
        if decode:
            self.scope("vae_decode", 430 * MS, 490 * MS, request)
        return request

    def step(self, begin: int, length: int, parent: int, number: int) -> int:
        step = self.scope("denoise_step", begin, begin + length, parent, args={"step": number})
        for block in range(BLOCKS):
            self.block(begin + (5 + 45 * block) * MS, step)
        return begin + length

    def block(self, begin: int, parent: int) -> None:
        block = self.scope("block", begin, begin + 40 * MS, parent, level="block")
        attention = self.scope("self_attn", begin + 10 * MS, begin + 30 * MS, block, level="op")
        size = {"bytes_in": 8 * MIB, "bytes_out": 8 * MIB}
        self.collective(
            "_allgather_base_", begin + MS, 12 * MS, block, GATHER_STREAM, role="fsdp",
            bytes_in=32 * MIB, bytes_out=64 * MIB, group=2,
        )  # fmt: skip
        for call in range(3):
            self.collective("alltoall_", begin + (11 + 2 * call) * MS, 2 * MS, attention, role="qkv", **size)
        self.collective("alltoall_", begin + 26 * MS, 2 * MS, attention, role="out", **size)
        if self.on_gpu:
            self.builder.alloc(ACTIVATION, 40 * MIB, begin + 12 * MS, scope=attention)
            self.builder.free(ACTIVATION, 40 * MIB, begin + 28 * MS, completed=begin + 28 * MS, scope=attention)


def gpu_rank(rank: int, world_size: int = 2, *, slower: float = 1.0, **fields) -> TraceBuilder:
    """A whole request on a GPU: 100 MiB of weights from before, 40 MiB more reserved in the first block."""
    builder = TraceBuilder(rank=rank, world_size=world_size, device_index=rank, **fields)
    builder.group("0", tuple(range(world_size)), rank=rank, description="default_pg")
    builder.group("1", tuple(range(world_size)), rank=rank, description="fsdp")
    blocks = tiles(SEGMENT, 128 * MIB, {WEIGHTS: 100 * MIB})
    used = {"allocated": 100 * MIB, "active": 100 * MIB, "requested": 100 * MIB}
    segment = {"address": SEGMENT, "total": 128 * MIB, "stream": 7, "blocks": 2, "flags": SegmentFlags.LARGE, **used}
    totals = {**used, "reserved_bytes": 128 * MIB}
    builder.snapshot(0, [segment], blocks, **totals)
    builder.segment(ACTIVATION, 40 * MIB, 56 * MS)
    wan = WanRank(builder, slower)
    request = wan.request(decode=rank == 0)
    sample = {"device_free": 1 << 36, "device_total": 1 << 37, **totals}
    builder.sample(1 * MS, edge="scope_begin", scope=request, **sample)
    builder.sample(430 * MS, edge="scope_end", scope=request, **sample | {"reserved_bytes": 168 * MIB})
    builder.recorder_sample(500 * MS, resolver_cpu=MS, process_cpu=800 * MS)
    builder.meta({"notes": ["Collectives on the backend object itself are not seen."]})
    return builder


def save_two_gpus(directory: Path) -> Path:
    """Rank 1 takes 5 % longer than rank 0 on the GPU."""
    for rank in range(2):
        builder = gpu_rank(rank, slower=1 + 0.05 * rank)
        builder.end(510 * MS)
        builder.save(directory / f"rank{rank:05d}-{rank}-0.wanhook")
    return directory


def save_two_cpus(directory: Path) -> Path:
    """Two gloo processes: no streams, no segments, completions on the host."""
    for rank in range(2):
        builder = TraceBuilder(rank=rank, world_size=2, device="cpu")
        builder.group("0", (0, 1), rank=rank, backend="gloo", description="default_pg")
        builder.group("1", (0, 1), rank=rank, backend="gloo", description="fsdp")
        wan = WanRank(builder, on_gpu=False)
        request = wan.request(decode=rank == 0)
        builder.alloc(0x5000, 4 * MIB, 1 * MS, scope=request)
        builder.alloc(0x9000, 2 * MIB, 2 * MS, scope=request)
        builder.free(0x5000, 0, 3 * MS, completed=3 * MS, scope=request)
        builder.recorder_sample(500 * MS, resolver_cpu=2 * MS, process_cpu=800 * MS)
        builder.end(510 * MS)
        builder.save(directory / f"rank{rank:05d}-{rank}-0.wanhook")
    return directory


def save_kernels(directory: Path) -> Path:
    """Two ranks with a window of 400 us: two all_to_all with kernels of 20 and 30 us, an all_gather without one, and a
    kernel of nobody; before it an all_to_all."""
    for rank in range(2):
        builder = TraceBuilder(rank=rank, world_size=2, device_index=rank)
        builder.group("0", (0, 1), rank=rank, description="default_pg")
        for at, kernel in ((10, None), (100, 20), (200, 30)):
            gpu = (at * US, (at + 80) * US)
            sizes = {"bytes_in": 8 * MIB, "bytes_out": 8 * MIB}
            builder.collective("alltoall_", at * US, returned=(at + 10) * US, gpu=gpu, role="qkv", **sizes)
            if kernel:
                begin = (at + 40) * US
                builder.kernel("ncclDevKernel_SendRecv", begin, begin + kernel * US, launch=(at + 5) * US)
        builder.collective("_allgather_base_", 300 * US, returned=310 * US, flags=CollectiveFlags.ASYNC, role="fsdp")
        builder.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 330 * US, 340 * US, launch=320 * US)
        builder.kernel_window(95 * US, 495 * US, opening=3 * MS, closing=40 * MS)
        builder.end(MS)
        builder.save(directory / f"rank{rank:05d}-1-0.wanhook")
    return directory


def save_crashed(directory: Path) -> Path:
    """Four ranks: 0 ended, 1 died inside a collective, 2 ran out of memory and of disk, 3 left no file."""
    well = gpu_rank(0, 4)
    well.drop(300 * MS, 12)
    well.end(510 * MS, dropped=12, unresolved=2)
    well.save(directory / "rank00000-1-0.wanhook")
    died = gpu_rank(1, 4, state=0, meta={"environment": {"NCCL_DEBUG": "INFO"}})
    step = died.scope("denoise_step", 520 * MS, None, parent=died.scope("denoise", 515 * MS, None))
    died.collective("alltoall_", 530 * MS, scope=step, role="qkv", bytes_in=8 * MIB, flags=16)
    died.mark("expert switch", 620 * MS)
    died.save(directory / "rank00001-1-0.wanhook")
    full = gpu_rank(2, 4)
    full.allocator(9, 120 * MIB, 2048 * MIB, 505 * MS, scope=1)
    full.end(510 * MS, state="disk_full", error=28)
    full.save(directory / "rank00002-1-0.wanhook")
    return directory


def save_sharded(directory: Path) -> Path:
    """Two ranks, three steps of 20 ms of two units: an all_gather of 5 ms, for whose last 2 the compute stream waits,
    the host 1 ms late behind it; 3 ms of all_to_all, for which the next unit's all_gather waits for 4 ms, to be hidden
    itself then; and an all_reduce on a stream for which no wait is recorded. All in one group."""
    for rank in range(2):
        builder = TraceBuilder(rank=rank, world_size=2, device_index=rank)
        builder.group("0", (0, 1), rank=rank, description="default_pg")
        gather = {"role": "fsdp", "stream": GATHER_STREAM, "bytes_in": 32 * MIB, "bytes_out": 64 * MIB}
        for at in range(0, 60 * MS, 20 * MS):
            step = builder.scope("denoise_step", at, at + 20 * MS, gpu=(at, at + 20 * MS))
            builder.collective("_allgather_base_", at, returned=at, gpu=(at + MS, at + 6 * MS), scope=step,
                               unit="WanModel", **gather)  # fmt: skip
            builder.scope("fsdp wait", at + MS, at + 2 * MS, gpu=(at + 4 * MS, at + 7 * MS), parent=step, level="op",
                          type="wait")  # fmt: skip
            own, side = {"scope": step, "bytes_in": 8 * MIB}, {"scope": step, "bytes_in": MIB, "stream": 11}
            builder.collective("alltoall_", at, returned=at, gpu=(at + 8 * MS, at + 11 * MS), role="qkv", **own)
            builder.collective("_allgather_base_", at, returned=at, gpu=(at + 7 * MS, at + 15 * MS), scope=step,
                               unit="WanModel blocks.0", **gather)  # fmt: skip
            builder.collective("allreduce_", at, gpu=(at + 15 * MS, at + 16 * MS), **side)
        builder.scope("fsdp wait", 59 * MS, 60 * MS, level="op", type="wait")
        builder.end(61 * MS)
        builder.save(directory / f"rank{rank:05d}-{rank}-0.wanhook")
    return directory


def save_one_process(directory: Path) -> Path:
    """One process without a rank, on the CPU: a recording that dropped records, and one in which it died."""
    for life in range(2):
        builder = TraceBuilder(None, None, device="cpu", life=life, state=0 if life else FileState.STOPPED)
        if life:
            builder.snapshot(0, [], [], reason="start", device=-1, allocated=0, active=0, requested=0)
        wan = WanRank(builder, on_gpu=False)
        request = wan.scope("request", 0, None if life else 500 * MS)
        wan.scope("text_encode", MS, 40 * MS, request)
        builder.alloc(0x5000, 4 * MIB, 2 * MS, scope=request)
        builder.alloc(0x9000, 2 * MIB, 3 * MS, scope=request)
        builder.free(0x5000, 0, 4 * MS, completed=4 * MS, scope=request)
        if not life:
            builder.drop(300 * MS, 12)
            builder.end(510 * MS, dropped=12)
        builder.save(directory / f"rank-1-{life}.wanhook")
    return directory


class DeadProcesses:
    """A machine on which the processes of `made-host` ran and run no more."""

    def host(self) -> str:
        return "made-host"

    def boot_id(self) -> str:
        return "made-boot"

    def pid_namespace(self) -> str:
        return ""

    def realtime(self) -> int:
        return 1_800_000_000_000_000_000

    def process_began(self, pid: int) -> int | None:
        return None
