"""`kernels STORE RECORDING`, one process a rank: collectives of every sort in a window of NCCL's kernels."""

import os
import sys

import torch
import torch.distributed as dist

from gpu.processes import say
from gpu.spinning import calibrate, spin

CALLS = 5
ELEMENTS = 1 << 20  # float32 of each part
SORTS = ("alltoall_", "alltoall_base_", "_allgather_base_", "_reduce_scatter_base_", "allreduce_")


def operations(world_size: int) -> dict:
    """op of c10d -> a call of it, with tensors of its own."""
    parts = [torch.ones(ELEMENTS, device="cuda") for _ in range(world_size)]
    received = [torch.empty_like(part) for part in parts]
    joined, exchanged = torch.cat(parts), torch.empty(ELEMENTS * world_size, device="cuda")
    single, scattered, summed = (torch.ones(ELEMENTS, device="cuda") for _ in range(3))
    return {
        "alltoall_": lambda **how: dist.all_to_all(received, parts, **how),
        "alltoall_base_": lambda **how: dist.all_to_all_single(exchanged, joined, **how),
        "_allgather_base_": lambda **how: dist.all_gather_into_tensor(exchanged, single, **how),
        "_reduce_scatter_base_": lambda **how: dist.reduce_scatter_tensor(scattered, joined, **how),
        "allreduce_": lambda **how: dist.all_reduce(summed, **how),
    }


def step(known: dict, rank: int, side: torch.cuda.Stream) -> None:
    """Each collective: sync behind work, on an idle GPU, on a side stream, async; then a coalesced pair."""
    import wanhook

    for call in known.values():
        for _ in range(CALLS):
            with wanhook.role("sync"):
                spin(300)
                call()
            torch.cuda.synchronize()
            with wanhook.role("sync"):
                call()
            with torch.cuda.stream(side), wanhook.role("sync"):
                call()
            with wanhook.role("async"):
                call(async_op=True).wait()
    first, second = torch.ones(64, device="cuda"), torch.ones(64, device="cuda")
    with wanhook.role("coalesced"):
        moves = [dist.P2POp(dist.isend, first, 1 - rank), dist.P2POp(dist.irecv, second, 1 - rank)]
        for work in dist.batch_isend_irecv(moves):
            work.wait()


def main(store: str, recording: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world_size, device_id=device)
    known, side = operations(world_size), torch.cuda.Stream()
    assert tuple(known) == SORTS
    calibrate()
    import wanhook

    step(known, rank, side)
    torch.cuda.synchronize()
    wanhook.start(recording)
    for _ in range(3):
        with wanhook.trace("step"):
            step(known, rank, side)
    wanhook.stop(wait=10)
    say(
        {
            "rank": rank,
            "contexts": [at for at in range(torch.cuda.device_count()) if torch._C._cuda_hasPrimaryContext(at)],
        }
    )
    del known
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
