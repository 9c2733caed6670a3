"""coalesced.py: coalesced groups of every kind, each in a scope of its name, on torch's fake backend, which groups
calls as NCCL does and completes them at once."""

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg

import wanhook
from wanhook import _native

_C = _native.load()
DEVICE = torch.device("cpu")
FIRST, SECOND = torch.ones(8), torch.ones(4)


def synchronous():
    with dist._coalescing_manager(device=DEVICE):
        dist.broadcast(FIRST, 0)
        dist.broadcast(SECOND, 0)


def point_to_point():
    with dist._coalescing_manager(device=DEVICE, async_ops=True) as manager:
        dist.isend(FIRST, 1)
        dist.irecv(SECOND, 1)
        dist.isend(SECOND.bfloat16(), 1)
    manager.wait()


def mixed():
    with wanhook.role("tagged", "its unit"), dist._coalescing_manager(device=DEVICE, async_ops=True):
        dist.broadcast(FIRST, 0)
        dist.isend(FIRST, 1)


def one_operator():
    """What the manager cannot collect is called at once, and is no member."""
    with dist._coalescing_manager():
        dist.all_reduce(FIRST)
        dist.all_reduce(SECOND)
        dist.broadcast(FIRST, 0)


def without_manager():
    group = dist.group.WORLD
    group._start_coalescing(DEVICE)
    dist.broadcast(FIRST, 0)
    group._end_coalescing(DEVICE)
    dist.broadcast(SECOND, 0)


def nested():
    group = dist.group.WORLD
    group._start_coalescing(DEVICE)
    dist.broadcast(FIRST, 0)
    with dist._coalescing_manager(device=DEVICE):
        dist.broadcast(SECOND, 0)
    dist.broadcast(FIRST, 0)
    group._end_coalescing(DEVICE)


def empty():
    with dist._coalescing_manager(device=DEVICE):
        pass


def left_by_an_exception():
    try:
        with dist._coalescing_manager(device=DEVICE):
            dist.broadcast(FIRST, 0)
            raise KeyError("the program's own")
    except KeyError:
        dist.distributed_c10d._world.pg_coalesce_state.clear()
    dist.broadcast(SECOND, 0)


def error_at_the_end():
    """The group's end throws: of arguments that torch refuses."""
    group = dist.group.WORLD
    group._start_coalescing(DEVICE)
    dist.broadcast(FIRST, 0)
    try:
        group._end_coalescing("no device")
    except (TypeError, RuntimeError):
        return
    raise AssertionError("the call should have failed")


CASES = [
    synchronous, point_to_point, mixed, one_operator, without_manager, nested, empty, left_by_an_exception,
    error_at_the_end, synchronous,
]  # fmt: skip

wanhook.pause()  # attaches the hooks
dist.init_process_group("fake", rank=0, world_size=2, store=fake_pg.FakeStore())
synchronous()  # counted, not recorded
wanhook.start("run")
for case in CASES:
    with wanhook.trace(case.__name__):
        case()
    assert _C.leftovers() == ["a recording is running"], case.__name__
wanhook.stop(wait=5)
