"""A made-up recording with everything that the memory report can say, small enough to add up by hand.

Two experts of 60 MiB are sharded; five steps gather 40 MiB on another stream, which is freed late, and keep 1.25 MiB
each; a prompt cache of 2 MiB pins a segment; the decode asks for 260 MiB, tries again, and fails.
"""

from __future__ import annotations

from pathlib import Path

from made_allocator import MIB, MadeAllocator
from made_trace import TraceBuilder

MS = 1_000_000
TOTAL = 400 * MIB
OUTSIDE = 50 * MIB  # that torch knows nothing of
GATHER_STREAM = 9


class MemoryRun:
    """Writes the run into a builder, stage by stage; `now` is the time in ns."""

    def __init__(self, builder: TraceBuilder) -> None:
        self.builder = builder
        self.device = MadeAllocator(builder)
        self.now, self.retries, self.ooms = MS, 0, 0

    def tick(self) -> int:
        self.now += MS
        return self.now

    def sample(self, edge: str, scope: int) -> None:
        live, reserved = sum(self.device.blocks.values()), sum(size for size, _ in self.device.segments.values())
        counted = {"allocated": live, "active": live, "requested": live, "reserved_bytes": reserved}
        counted |= {"device_total": TOTAL, "device_free": TOTAL - OUTSIDE - reserved}
        counted |= {"inactive_split": self.device.inactive_split(), "retries": self.retries, "ooms": self.ooms}
        self.builder.sample(self.tick(), edge=edge, scope=scope, **counted)

    def load(self, parent: int, expert: str) -> None:
        begin = self.tick()
        component = self.builder.scope("load_dit", begin, begin + 8 * MS, parent=parent, args={"expert": expert})
        wrap = self.builder.scope("fsdp_wrap", begin + MS, begin + 7 * MS, parent=component)
        self.tick()
        for _ in range(3):
            self.device.alloc(self.device.segment(20 * MIB, self.tick(), scope=wrap), 20 * MIB, self.now, scope=wrap)
        self.now = begin + 8 * MS

    def encode(self, parent: int) -> None:
        begin = self.tick()
        encode = self.builder.scope("text_encode", begin, begin + 10 * MS, parent=parent)
        cache = self.builder.scope("prompt_cache", begin + MS, begin + 9 * MS, parent=encode, level="op")
        segment = self.device.segment(20 * MIB, self.tick(), scope=encode)
        work = self.device.alloc(segment, 9 * MIB, self.tick(), scope=encode)
        self.device.alloc(segment + 9 * MIB, 2 * MIB, self.tick(), scope=cache)
        self.device.free(work, self.tick(), scope=encode)
        self.now = begin + 10 * MS

    def steps(self, parent: int) -> None:
        gathers = self.device.segment(40 * MIB, self.tick(), stream=GATHER_STREAM, scope=parent)
        self.device.alloc(gathers, 40 * MIB, self.now, scope=parent)
        self.device.free(gathers, self.now, scope=parent)
        store = self.device.segment(20 * MIB, self.tick(), scope=parent)
        for number in range(5):
            begin = self.tick()
            step = self.builder.scope("denoise_step", begin, begin + 8 * MS, parent=parent, args={"step": number})
            self.device.alloc(gathers, 40 * MIB, self.tick(), scope=step)
            self.device.alloc(store + number * MIB * 5 // 4, MIB * 5 // 4, self.tick(), scope=step)
            self.device.request_free(gathers, self.tick(), scope=step)
            self.now += 2 * MS
            self.device.complete_free(gathers, self.tick(), scope=step)
            self.now = begin + 8 * MS

    def decode(self, parent: int) -> None:
        begin = self.tick()
        decode = self.builder.scope("vae_decode", begin, begin + 8 * MS, parent=parent)
        self.sample("scope_begin", decode)
        self.retries, self.ooms = 1, 1
        gathers = next(base for base, (_, stream) in self.device.segments.items() if stream == GATHER_STREAM)
        self.device.drop_segment(gathers, self.tick(), scope=decode)
        reserved = sum(size for size, _ in self.device.segments.values())
        self.device.out_of_memory(260 * MIB, TOTAL - OUTSIDE - reserved, self.tick(), scope=decode)
        self.sample("scope_end", decode)


def save_memory(directory: Path) -> Path:
    """One rank on one GPU."""
    builder = TraceBuilder()
    run = MemoryRun(builder)
    begin = run.now
    load = builder.scope("load", begin, begin + 20 * MS)
    for expert in ("low_noise", "high_noise"):
        run.load(load, expert)
    run.now = begin + 20 * MS
    request = builder.scope("request", run.tick(), run.now + 100 * MS)
    run.sample("scope_begin", request)
    run.encode(request)
    denoise = builder.scope("denoise", run.tick(), run.now + 60 * MS, parent=request)
    run.steps(denoise)
    run.decode(request)
    run.device.snapshot(run.tick())
    builder.end(run.tick())
    builder.save(directory / "rank00000-1-0.wanhook")
    return directory
