"""Every collective that gloo has, on one of two ranks: collectives.py STORE, with RANK in the environment.

Each case runs in a scope of its name. Results are compared with those of the same calls without a recording.
"""

import os
import sys
import threading
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed import fake_pg  # noqa: F401 registers the backend "fake"

import wanhook

RANK = int(os.environ["RANK"])
OTHER = 1 - RANK
UNSUPPORTED = "not supported by gloo here"
warnings.simplefilter("ignore")


def mine(count: int = 8, dtype=torch.float32) -> torch.Tensor:
    return torch.arange(count).to(dtype) + 100 * RANK


def expect_error(text: str, call) -> None:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        if text not in str(error).lower():
            raise
    else:
        raise AssertionError(f"the call should have failed: {text}")


def all_reduce():
    dist.all_reduce(x := mine())
    return [x]


def all_reduce_async():
    work = dist.all_reduce(x := mine(16, torch.bfloat16), async_op=True)
    work.wait()
    return [x]


def broadcast():
    dist.broadcast(x := mine(), src=1)
    return [x]


def reduce():
    dist.reduce(x := mine(), dst=1)
    return [x] if RANK == 1 else []


def all_gather():
    out = [torch.empty(8) for _ in range(2)]
    dist.all_gather(out, mine())
    return out


def all_gather_into_tensor():
    dist.all_gather_into_tensor(out := torch.empty(6, dtype=torch.int64), mine(3, torch.int64))
    return [out]


def reduce_scatter():
    dist.reduce_scatter(out := torch.empty(4), [mine(4), mine(4) + 1])
    return [out]


def reduce_scatter_tensor():
    dist.reduce_scatter_tensor(out := torch.empty(4), mine())
    return [out]


def all_to_all_single():
    dist.all_to_all_single(out := torch.empty(8), mine())
    return [out]


def all_to_all_uneven():
    sent, received = ([1, 3], [1, 2]) if RANK == 0 else ([2, 2], [3, 2])
    dist.all_to_all_single(out := torch.empty(sum(received)), mine(4), received, sent)
    return [out]


def all_to_all():
    out = [torch.empty(4), torch.empty(4)]
    dist.all_to_all(out, list(mine().chunk(2)))
    return out


def gather():
    out = [torch.empty(8), torch.empty(8)] if RANK == 1 else None
    dist.gather(mine(), out, dst=1)
    return out or []


def scatter():
    dist.scatter(out := torch.empty(8), [mine(), mine() + 1] if RANK == 0 else None, src=0)
    return [out]


def send_and_receive():
    x = mine()
    (dist.send if RANK == 0 else dist.recv)(x, OTHER)
    (dist.recv if RANK == 0 else dist.send)(x, OTHER)
    return [x]


def receive_from_anybody():
    x = mine()
    if RANK == 0:
        dist.send(x, 1)
    else:
        assert dist.recv(x) == 0
    return [x]


def batch_of_point_to_point():
    out = torch.empty(8)
    works = dist.batch_isend_irecv([dist.P2POp(dist.isend, mine(), OTHER), dist.P2POp(dist.irecv, out, OTHER)])
    for work in works:
        work.wait()
    return [out]


def barrier():
    dist.barrier()
    return []


def monitored_barrier():
    dist.monitored_barrier()
    return []


def all_reduce_coalesced():
    tensors = [mine(4), mine(2)]
    dist.all_reduce_coalesced(tensors)
    return tensors


def coalesced_all_reduces():
    tensors = [mine(4), mine(6), mine(8)]
    with dist._coalescing_manager():
        for x in tensors:
            dist.all_reduce(x)
    dist.all_reduce(after := mine(2))
    return [*tensors, after]


def coalesced_all_gathers():
    outs = [torch.empty(8), torch.empty(4)]
    with dist._coalescing_manager(async_ops=True) as coalesced:
        for out in outs:
            dist.all_gather_into_tensor(out, mine(len(out) // 2))
    coalesced.wait()
    return outs


def coalesced_reduce_scatters():
    outs = [torch.empty(2), torch.empty(3)]
    with dist._coalescing_manager():
        for out in outs:
            dist.reduce_scatter_tensor(out, mine(len(out) * 2))
    return outs


def all_gather_coalesced():
    outs = [[torch.empty(4), torch.empty(2)] for _ in range(2)]
    dist.all_gather_coalesced(outs, [mine(4), mine(2)])
    return [x for row in outs for x in row]


def error_in_a_coalesced_group():
    """The calls after it are in no group of ours. torch itself stays in its own until that is cleared."""
    try:
        with dist._coalescing_manager():
            raise KeyError("the program's own")
    except KeyError:
        dist.distributed_c10d._world.pg_coalesce_state.clear()
    dist.all_reduce(x := mine())
    return [x]


def functional_collectives():
    group = dist.group.WORLD
    reduced = functional.all_reduce(mine(), "sum", group)
    gathered = functional.all_gather_tensor(mine(), 0, group)
    exchanged = functional.all_to_all_single(mine(), None, None, group)
    return [x.wait() for x in (reduced, gathered, exchanged)]


def subgroups():
    dist.all_reduce(x := mine(), group=BOTH)
    dist.all_reduce(x, group=BOTH)
    if RANK == 1:
        dist.all_reduce(x, group=ONLY_ONE)
    dist.broadcast(x, src=1, group=REVERSED)
    return [x]


def roles():
    out = torch.empty(8)
    with wanhook.role("qkv", "block 3"):
        dist.all_to_all_single(out, mine())
        with wanhook.role("out"):
            dist.all_to_all_single(out, mine())
        dist.all_to_all_single(out, mine())
        with wanhook.role("out", "block 4"):
            dist.all_to_all_single(out, mine())
    with wanhook.role("qkv", ""):
        dist.all_to_all_single(out, mine())
    dist.all_to_all_single(out, mine())
    return [out]


def on_another_thread():
    x = mine()
    thread = threading.Thread(target=dist.all_reduce, args=(x,))
    thread.start()
    thread.join()
    return [x]


def fake_tensors():
    with FakeTensorMode():
        x = torch.empty(8)
        dist.all_reduce(x, group=FAKE)
        dist.all_gather_into_tensor(torch.empty(16), x, group=FAKE)
    return []


def wrong_sizes():
    """Fails in both ranks before anything is sent."""
    out = torch.empty(8)
    expect_error("split sizes", lambda: dist.all_to_all_single(out, mine(), [5, 5], [4, 4]))
    return []


def late_rank():
    """Rank 0 waits in vain."""
    if RANK == 0:
        expect_error("timed out", lambda: dist.all_reduce(mine(), group=IMPATIENT))
    dist.barrier()
    return []


CASES = [
    all_reduce, all_reduce_async, broadcast, reduce, all_gather, all_gather_into_tensor, reduce_scatter,
    reduce_scatter_tensor, all_to_all_single, all_to_all_uneven, all_to_all, gather, scatter, send_and_receive,
    receive_from_anybody, batch_of_point_to_point, barrier, monitored_barrier, all_reduce_coalesced,
    coalesced_all_reduces, coalesced_all_gathers, coalesced_reduce_scatters, all_gather_coalesced,
    error_in_a_coalesced_group, functional_collectives, subgroups, roles, on_another_thread, fake_tensors, wrong_sizes,
]  # fmt: skip


def run(case) -> list[torch.Tensor] | str:
    try:
        return case()
    except RuntimeError as error:
        # Gloo lacks the list form of all_to_all before torch 2.12, and says so before anything is sent.
        if "does not support" in str(error):
            return UNSUPPORTED
        raise


def run_all() -> list[list[torch.Tensor] | str]:
    results = []
    for case in CASES:
        with wanhook.trace(case.__name__):
            results.append(run(case))
    return results


def same(ours, theirs) -> bool:
    if isinstance(ours, str):
        return ours == theirs
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


wanhook.pause()  # attaches the hooks: calls are counted from here on
os.environ["WANHOOK"] = "0"  # trace() records nothing yet
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=RANK, world_size=2)
BOTH = dist.new_group([0, 1], group_desc="a group of both")
ONLY_ONE = dist.new_group([1])
REVERSED = dist.new_group([1, 0])
FAKE = dist.new_group([0, 1], backend="fake")
IMPATIENT = dist.new_group([0, 1])
dist.barrier(group=IMPATIENT)
# Only now: the ranks' meeting would be under the same limit, and on a busy machine one comes late.
dist.distributed_c10d._set_pg_timeout(timedelta(milliseconds=400), IMPATIENT)

unrecorded = run_all()
os.environ["WANHOOK"] = "1"
wanhook.start()
recorded = run_all()
assert [same(*pair) for pair in zip(unrecorded, recorded, strict=True)] == [True] * len(CASES)
wanhook.pause()
all_reduce()
wanhook.resume()
with wanhook.trace("after_the_pause"):
    all_reduce()
with wanhook.trace("late_rank"):
    late_rank()
wanhook.stop()
all_reduce()
dist.destroy_process_group()
# Nothing of ours may hold them: their destructors join gloo's threads, which torch would not survive at exit while one
# of them still lets a tensor go.
BOTH = ONLY_ONE = REVERSED = FAKE = IMPATIENT = None
for case, result in zip(CASES, recorded, strict=True):
    print(case.__name__, "unsupported" if result == UNSUPPORTED else "ok")
