"""`waits STORE RECORDING`, one process a rank: FSDP1 and FSDP2 with all_gathers that are exposed, and with hidden ones.

Says, for each case and unit, how long (ns) the compute stream took from the end of the unit before it to the release of
this one, by torch's own events.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from gpu.processes import say
from gpu.spinning import calibrate, nanoseconds, spin, timing_event

UNITS, FORWARDS = 6, 3
EXPOSED, HIDDEN = "exposed", "hidden"
# Side of a square bfloat16 weight, rows of the input, matrix products a unit. Exposed: 2 GiB to gather beside one
# product that reads them. Hidden: 128 MiB beside ten products of 1.1 TFLOP.
SHAPES = {EXPOSED: (32768, 16, 1), HIDDEN: (8192, 8192, 10)}
CASES = [f"fsdp{version} {kind}" for version in (1, 2) for kind in SHAPES]


class Gaps:
    """Pairs of events around what keeps the compute stream from a unit's work."""

    def __init__(self):
        self.pairs: list[list[torch.cuda.Event]] = []

    def done(self) -> None:
        """The compute stream has all its work up to here."""
        self.pairs.append([self._recorded()])

    def released(self) -> None:
        """The unit's own work comes next. Only the first call behind done() counts."""
        if len(self.pairs[-1]) == 1:
            self.pairs[-1].append(self._recorded())

    def lengths(self) -> list[float]:
        """ns of each pair; the GPU has passed them."""
        return [nanoseconds(*pair) for pair in self.pairs if len(pair) == 2]

    def _recorded(self) -> torch.cuda.Event:
        event = timing_event()
        event.record()
        return event


class Unit(nn.Module):
    def __init__(self, side: int, products: int, gaps: Gaps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(side, side, dtype=torch.bfloat16, device="cuda"), requires_grad=False)
        nn.init.normal_(self.weight, std=side**-0.5)
        self.products, self.gaps = products, gaps

    def forward(self, x):
        self.gaps.released()
        for _ in range(self.products):
            x = x @ self.weight
        self.gaps.done()
        return x


def sharded(version: int, side: int, products: int, gaps: Gaps) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(*(Unit(side, products, gaps) for _ in range(UNITS)))
    if version == 1:
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        device = torch.device("cuda", torch.cuda.current_device())
        return FullyShardedDataParallel(model, auto_wrap_policy=ModuleWrapPolicy({Unit}), device_id=device)
    from torch.distributed.fsdp import fully_shard

    for unit in (*model, model):
        fully_shard(unit)
    return model


def note_release_of_fsdp2(gaps_of_now: list[Gaps]) -> None:
    """FSDP2 copies the gathered weights on the compute stream: the release is before that, not at the forward."""
    from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

    original = FSDPParam.alloc_all_gather_outputs

    def noting(self):
        if gaps_of_now and gaps_of_now[0].pairs:
            gaps_of_now[0].released()
        return original(self)

    FSDPParam.alloc_all_gather_outputs = noting


def run_case(case: str, gaps_of_now: list[Gaps]) -> list[float]:
    import wanhook

    version, kind = int(case[4]), case.split()[1]
    side, rows, products = SHAPES[kind]
    gaps = Gaps()
    gaps_of_now[:] = [gaps]
    x = torch.randn(rows, side, dtype=torch.bfloat16, device="cuda")
    ahead = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    wanhook.pause()
    model = sharded(version, side, products, gaps)
    gaps.done()
    with torch.no_grad():
        model(x)  # connections, lazy initialisation, the allocator's segments
        dist.barrier()
        torch.cuda.synchronize()
        wanhook.resume()
        gaps.pairs.clear()
        with wanhook.trace(case):
            for _ in range(FORWARDS):
                spin(3_000)  # the host gets ahead of the stream
                if kind == HIDDEN:
                    for _ in range(10):
                        torch.matmul(ahead, ahead)
                gaps.done()
                model(x)
                torch.cuda.synchronize()
                dist.barrier()
    lengths = gaps.lengths()
    gaps_of_now.clear()
    return lengths


def main(store: str, recording: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world_size, device_id=device)
    import wanhook

    calibrate()
    gaps_of_now: list[Gaps] = []
    note_release_of_fsdp2(gaps_of_now)
    wanhook.start(recording)
    answer = {"rank": rank, "gaps": {}}
    for case in CASES:
        answer["gaps"][case] = run_case(case, gaps_of_now)
        torch.cuda.empty_cache()
    torch.cuda.synchronize()
    wanhook.stop(wait=10)
    say(answer)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
