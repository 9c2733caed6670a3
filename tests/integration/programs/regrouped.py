"""Groups that come and go under a recording: ROUNDS. Prints a line for each with its size and whether its address had
been another group's, then how many of gloo's threads outlived a group of theirs."""

import gc
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import wanhook


def gloo_threads() -> int:
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)


wanhook.start("run")
addresses = set()
for number in range(int(sys.argv[1])):
    size = 2 + number % 3 if number < int(sys.argv[1]) // 2 else 2
    dist.init_process_group("fake", store=FakeStore(), rank=number % 2 if size > 2 else 0, world_size=size)
    address = dist.group.WORLD._id()
    dist.all_reduce(torch.ones(size))
    print(size, address in addresses)
    addresses.add(address)
    dist.destroy_process_group()
    gc.collect()

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.all_reduce(torch.ones(1))
print("gloo", gloo_threads())
dist.destroy_process_group()
gc.collect()
print("gloo", gloo_threads())
wanhook.stop()
