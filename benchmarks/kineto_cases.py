"""The cases of `kineto_matrix`: collectives in known situations, each call tagged with its case by its role."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product

import torch
import torch.distributed as dist
from torch import nn

import wanhook

from .kineto_clock import CALIBRATION
from .kineto_match import Case

OPS = ("all_to_all", "all_to_all_single", "all_gather", "reduce_scatter")
SIZES = (1 << 16, 1 << 20, 1 << 24, 1 << 28)
MODES = ("sync", "async")
KEPT = "kept"  # synchronous, in a group that keeps NCCL's events since an asynchronous call
STREAMS = ("compute", "side")
SITUATIONS = ("busy", "idle", "matmul", "elementwise")
UNSEEN = "unseen matmul"  # no scope tells of the work beside: what wanhook cannot know, shown and not judged
AHEAD = 4_000  # µs of spin, in which the host enqueues a whole case under the profiler
GAP = 30  # µs of spin between the calls of a busy stream
CALIBRATIONS = 20
WIDTH = 4096  # of matmuls and of FSDP's layers


@functools.lru_cache
def cycles_a_microsecond() -> float:
    torch.cuda._sleep(200_000_000)  # the clocks rise under load
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    torch.cuda._sleep(20_000_000)
    end.record()
    torch.cuda.synchronize()
    return 20_000_000 / (begin.elapsed_time(end) * 1000)


def spin(microseconds: float) -> None:
    torch.cuda._sleep(int(microseconds * cycles_a_microsecond()))


def cases(ops: tuple[str, ...], sizes: tuple[int, ...]) -> Iterator[Case]:
    for op in ops:
        for size, mode, stream, situation in product(sizes, MODES, STREAMS, SITUATIONS):
            yield Case(op, mode, stream, situation, size)
        for stream, situation in product(STREAMS, SITUATIONS):
            yield Case(op, KEPT, stream, situation, 1 << 20)
        for stream in STREAMS:
            yield Case(op, "sync", stream, UNSEEN, 1 << 20)


@dataclass
class Load:
    """Work for the other stream: one step keeps all SMs busy for about `microseconds`."""

    step: Callable[[], object]
    microseconds: float


class Bench:
    """Buffers, streams and work that all cases share. Needs the default process group and a current device."""

    def __init__(self, calls: int):
        self.calls = calls
        self.world = dist.get_world_size()
        self.asynchronous = dist.new_group()
        self.streams = {"compute": torch.cuda.current_stream(), "side": torch.cuda.Stream()}
        self._source = torch.zeros(max(SIZES), dtype=torch.uint8, device="cuda")
        self._result = torch.zeros_like(self._source)
        factors = [torch.randn(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
        product_, vector = torch.empty_like(factors[0]), torch.zeros(1 << 26, device="cuda")
        self.loads = {
            "matmul": self._timed(lambda: torch.mm(*factors, out=product_)),
            "elementwise": self._timed(lambda: vector.add_(1.0)),
        }
        self.loads[UNSEEN] = self.loads["matmul"]
        cycles_a_microsecond()
        torch.cuda.synchronize()

    @staticmethod
    def _timed(step: Callable[[], object]) -> Load:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(10):
            step()
        begin.record()
        for _ in range(50):
            step()
        end.record()
        torch.cuda.synchronize()
        return Load(step, begin.elapsed_time(end) * 1000 / 50)

    def call(self, case: Case) -> Callable[[], object]:
        """The collective of a case, ready to be called; it returns a Work when it is asynchronous."""
        whole, part = slice(0, case.size), slice(0, case.size // self.world)
        source, result = self._source, self._result
        group = dist.group.WORLD if case.mode == "sync" else self.asynchronous
        how = {"group": group, "async_op": case.mode == "async"}
        if case.op == "all_to_all":
            parts = [list(tensor[whole].chunk(self.world)) for tensor in (result, source)]
            return lambda: dist.all_to_all(*parts, **how)
        if case.op == "all_to_all_single":
            return functools.partial(dist.all_to_all_single, result[whole], source[whole], **how)
        if case.op == "all_gather":
            return functools.partial(dist.all_gather_into_tensor, result[whole], source[part], **how)
        return functools.partial(
            dist.reduce_scatter_tensor, result[part].view(torch.float32), source[whole].view(torch.float32), **how
        )

    def run(self, case: Case) -> None:
        call = self.call(case)
        target = self.streams[case.stream]
        other = self.streams["side" if case.stream == "compute" else "compute"]
        with self._beside(case, other), torch.cuda.stream(target), wanhook.trace("target", level="block"):
            if case.situation != "idle":
                spin(AHEAD)
            for _ in range(self.calls):
                if case.situation == "busy":
                    spin(GAP)
                with wanhook.role(case.role):
                    work = call()
                if work is not None:
                    work.wait()
                if case.situation == "idle":
                    torch.cuda.synchronize()
        torch.cuda.synchronize()

    @contextmanager
    def _beside(self, case: Case, other: torch.cuda.Stream) -> Iterator[None]:
        """Keeps the other stream at work for longer than the case can take, inside a scope unless unseen."""
        load = self.loads.get(case.situation)
        if load is not None:
            scope = nullcontext() if case.situation == UNSEEN else wanhook.trace(case.situation, level="block")
            lasts = 2 * AHEAD + self.calls * (250 + case.size / 100_000)  # µs; the last term: 100 GB/s
            with torch.cuda.stream(other), scope:
                spin(AHEAD / 4)
                for _ in range(int(lasts / load.microseconds) + 1):
                    load.step()
        yield

    def calibrate(self) -> None:
        """Scopes around one kernel each on a busy stream: what places Kineto's clock beside wanhook's."""
        spin(AHEAD)
        for _ in range(CALIBRATIONS):
            with wanhook.trace(CALIBRATION, level="op"):
                spin(GAP)
            spin(GAP)
        torch.cuda.synchronize()


def fsdp_model(version: int, layers: int = 8) -> nn.Module:
    """A stack of linear layers, each an FSDP unit of its own, sharded by FSDP1 or FSDP2."""
    torch.manual_seed(0)
    blocks = [nn.Linear(WIDTH, WIDTH, bias=False, device="cuda", dtype=torch.bfloat16) for _ in range(layers)]
    model = nn.Sequential(*blocks)
    if version == 2:
        from torch.distributed.fsdp import fully_shard

        for block in model:
            fully_shard(block)
        return fully_shard(model)
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

    policy = functools.partial(lambda_auto_wrap_policy, lambda_fn=lambda module: isinstance(module, nn.Linear))
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.cuda.current_device())


def run_fsdp(case: Case, model: nn.Module, rounds: int) -> None:
    """Forwards whose matmuls overlap with the next layer's all_gather. The scope names the case: FSDP's calls have a
    role of their own."""
    sample = fsdp_sample()
    with torch.no_grad():
        for _ in range(rounds):
            with wanhook.trace(case.role, level="block"):
                model(sample)
    torch.cuda.synchronize()


def fsdp_sample() -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16)
