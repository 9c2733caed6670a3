"""`planted_spins STORE RECORDING`, one process a rank: rank 1 spins before some of the collectives that both call.

Both ranks come out of an all_reduce together; then rank 1 alone spins; then both exchange. Says how long the spins took
by an independent pair of events, less what such a pair takes around nothing.
"""

import os
import sys

import torch
import torch.distributed as dist

from gpu.processes import say
from gpu.spinning import calibrate, nanoseconds, spin, timing_event

PLANTED = (0, 200, 1_000, 5_000)  # µs; 0: nothing planted, what the others are compared with
ROUNDS = 12
LATE_RANK = 1
BYTES = 1 << 20


def role_of(planted: int) -> str:
    return f"after {planted} us"


def one_round(rank: int, planted: int, buffers: tuple[torch.Tensor, torch.Tensor]):
    """Returns the pair of events around the spin."""
    import wanhook

    begin, end = timing_event(), timing_event()
    with wanhook.role("together"):
        dist.all_reduce(buffers[0])
    begin.record()
    if rank == LATE_RANK and planted:
        spin(planted)
    end.record()
    with wanhook.role(role_of(planted)):
        dist.all_to_all_single(buffers[1], buffers[0])
    return begin, end


def main(store: str, recording: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world_size, device_id=device)
    import wanhook

    calibrate()
    buffers = tuple(torch.zeros(BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    for planted in PLANTED:
        one_round(rank, planted, buffers)
    torch.cuda.synchronize()
    wanhook.start(recording)
    pairs = {planted: [] for planted in PLANTED}
    spin(20_000)  # the host must stay ahead of the stream throughout
    for _ in range(ROUNDS):
        for planted in PLANTED:
            pairs[planted].append(one_round(rank, planted, buffers))
    torch.cuda.synchronize()
    wanhook.stop(wait=10)
    lengths = {planted: torch.tensor([nanoseconds(*pair) for pair in own]) for planted, own in pairs.items()}
    nothing = lengths[0].median()
    say({"rank": rank, "spun": {str(planted): float(own.median() - nothing) for planted, own in lengths.items()}})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
