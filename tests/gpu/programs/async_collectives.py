"""`async_collectives STORE RECORDINGS`, one process a rank: asynchronous calls, sends and receives, and coalesced
groups over NCCL, with an op-level scope around each launch and its wait.

Says how long Kineto's kernels took, what memory was in use before and after, and whether a captured graph gave the
right result. RECORDINGS gets the folders main, stopped and destroyed.
"""

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from gpu.processes import MADE_UP, say
from gpu.spinning import calibrate, spin

CALLS = 10
MANY = 1000
ELEMENTS = 1 << 20  # float32 of each part
ASYNC = ("alltoall_base_", "alltoall_", "allgather_", "_allgather_base_", "reduce_scatter_", "_reduce_scatter_base_",
         "allreduce_")  # fmt: skip
PAIRED = ("batched", "lone")  # of two ranks

Call = Callable[[], list]


def asynchronous(rank: int, world_size: int) -> dict[str, Call]:
    """Name of the c10d operator -> a call of it that returns its works."""
    parts = [torch.randn(ELEMENTS, device="cuda") for _ in range(world_size)]
    received = [torch.empty(ELEMENTS, device="cuda") for _ in range(world_size)]
    joined, single = torch.cat(parts), torch.randn(ELEMENTS, device="cuda")
    wide, narrow = torch.empty_like(joined), torch.empty_like(single)
    return {
        "alltoall_base_": lambda: [dist.all_to_all_single(wide, joined, async_op=True)],
        "alltoall_": lambda: [dist.all_to_all(received, parts, async_op=True)],
        "allgather_": lambda: [dist.all_gather(received, single, async_op=True)],
        "_allgather_base_": lambda: [dist.all_gather_into_tensor(wide, single, async_op=True)],
        "reduce_scatter_": lambda: [dist.reduce_scatter(narrow, parts, async_op=True)],
        "_reduce_scatter_base_": lambda: [dist.reduce_scatter_tensor(narrow, joined, async_op=True)],
        "allreduce_": lambda: [dist.all_reduce(narrow, async_op=True)],
    }


def grouped(rank: int, world_size: int, device: torch.device) -> dict[str, Call]:
    """Coalesced groups of three calls by kind, and pairs of a send and a receive."""
    tensors = [torch.ones(ELEMENTS, device="cuda") for _ in range(3)]
    right, left = (rank + 1) % world_size, (rank - 1) % world_size

    def launched(operation, device, asynchronous: bool) -> list:
        with dist._coalescing_manager(device=device, async_ops=asynchronous) as manager:
            for tensor in tensors:
                operation(tensor)
        return manager.works if asynchronous else []

    def batched() -> list:
        moves = [dist.P2POp(dist.isend, tensors[0], right), dist.P2POp(dist.irecv, tensors[1], left)]
        return dist.batch_isend_irecv(moves)

    def lone() -> list:
        calls = [lambda: dist.isend(tensors[0], right), lambda: dist.irecv(tensors[1], left)]
        return [call() for call in (calls if rank % 2 == 0 else calls[::-1])]

    kinds = {
        "sync_group": lambda: launched(lambda x: dist.broadcast(x, 0), device, False),
        "async_group": lambda: launched(lambda x: dist.broadcast(x, 0, async_op=True), device, True),
        "sync_operator": lambda: launched(dist.all_reduce, None, False),
        "async_operator": lambda: launched(dist.all_reduce, None, True),
    }
    return kinds | ({"batched": batched, "lone": lone} if world_size > 1 else {})


def run_calls(name: str, call: Call) -> None:
    """The stream is kept busy ahead of each call, so that the host is never late."""
    import wanhook

    for _ in range(CALLS):
        spin(2_000)
        with wanhook.role(name), wanhook.trace(f"around {name}", level="op"):
            for work in call():
                work.wait()
    torch.cuda.synchronize()


def kernels_of(name: str, call: Call) -> list[float]:
    """µs of each NCCL kernel of the calls, as Kineto has them, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run_calls(name, call)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    found = [event for event in events if event.get("cat") == "kernel" and "nccl" in event["name"].lower()]
    return [event["dur"] for event in sorted(found, key=lambda event: event["ts"])]


def settled_use() -> int:
    """Allocated bytes once NCCL's watchdog, which looks ten times a second, has let go of what earlier calls left."""
    torch.cuda.synchronize()
    used, since, deadline = torch.cuda.memory_allocated(), time.monotonic(), time.monotonic() + 5
    while time.monotonic() < min(since + 0.5, deadline):
        time.sleep(0.01)
        if torch.cuda.memory_allocated() != used:
            used, since = torch.cuda.memory_allocated(), time.monotonic()
    return used


def memory_use(waited: bool) -> list[int]:
    """Allocated bytes before 50 calls on fresh tensors, and as soon as they can all be free: their works are waited for
    and dropped, or only dropped. Then NCCL's watchdog, which looks ten times a second, puts aside the tensors of those
    that are done, and the group's next calls let go of them."""
    later = torch.ones(1, device="cuda")
    before = settled_use()
    for _ in range(50):
        work = dist.all_reduce(torch.ones(ELEMENTS, device="cuda"), async_op=True)
        if waited:
            work.wait()
        del work
    for _ in range(0 if waited else 10):  # so many on each rank
        torch.cuda.synchronize()
        time.sleep(0.2)
        dist.all_reduce(later)
    torch.cuda.synchronize()
    return [before, torch.cuda.memory_allocated()]


def captured_calls(world_size: int, device: torch.device) -> str:
    """An async all_reduce and an async group in a graph, replayed; "" when they gave the right sums."""
    import wanhook

    source, total, shared = (torch.ones(256, device="cuda") for _ in range(3))
    torch.cuda.synchronize()
    time.sleep(0.5)  # NCCL's watchdog forgets the calls that are done: it asks after their events
    graph = torch.cuda.CUDAGraph()
    try:
        with wanhook.role("captured"), torch.cuda.graph(graph):
            total.copy_(source)
            dist.all_reduce(total, async_op=True).wait()
            with dist._coalescing_manager(device=device, async_ops=True) as manager:
                dist.broadcast(shared, 0, async_op=True)
            manager.wait()
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        right = MADE_UP or bool((total == world_size).all())
        return "" if right else f"sum {total[0].item()} over {world_size} ranks"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        graph.reset()
        del graph
        gc.collect()


def many_calls() -> None:
    import wanhook

    tensor = torch.ones(1024, device="cuda")
    with wanhook.role("many"):
        works = [dist.all_reduce(tensor, async_op=True) for _ in range(MANY)]
    for work in works:
        work.wait()
    torch.cuda.synchronize()


def pending_at_the_stop(folder: Path) -> float:
    """Seconds that stop() took with a work under way."""
    import wanhook

    wanhook.start(folder)
    tensor = torch.ones(1024, device="cuda")
    spin(300_000)
    with wanhook.role("pending"):
        work = dist.all_reduce(tensor, async_op=True)
    began = time.monotonic()
    wanhook.stop()
    took = time.monotonic() - began
    work.wait()
    torch.cuda.synchronize()
    return took


def pending_at_the_destruction(folder: Path) -> None:
    import wanhook

    wanhook.start(folder)
    group = dist.new_group()
    tensor = torch.ones(1024, device="cuda")
    dist.all_reduce(tensor, group=group)
    spin(200_000)
    with wanhook.role("orphaned"):
        work = dist.all_reduce(tensor, group=group, async_op=True)
    work.wait()
    del work
    dist.destroy_process_group(group)
    torch.cuda.synchronize()
    wanhook.stop(wait=10)


def main(store: str, recordings: str) -> None:
    import wanhook

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device, folder = torch.device("cuda", rank), Path(recordings)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world_size, device_id=device)
    calls = asynchronous(rank, world_size)
    groups = grouped(rank, world_size, device)
    for call in (*calls.values(), *groups.values()):  # NCCL makes its connections
        for work in call():
            work.wait()
    memory_use(waited=True)
    answer = {"rank": rank, "bare": [memory_use(waited=True), memory_use(waited=False)]}
    calibrate()
    torch.cuda.synchronize()
    wanhook.start(folder / "main")
    for name, call in (calls | groups).items():
        run_calls(name, call)
    answer["kernels"] = {name: kernels_of(f"profiled {name}", call) for name, call in calls.items()}
    answer["recorded"] = [memory_use(waited=True), memory_use(waited=False)]
    answer["capture_problem"] = captured_calls(world_size, device)
    many_calls()
    with wanhook.role("sync"):
        dist.all_reduce(torch.ones(ELEMENTS, device="cuda"))
    torch.cuda.synchronize()
    wanhook.stop(wait=10)
    answer["stop_seconds"] = pending_at_the_stop(folder / "stopped")
    pending_at_the_destruction(folder / "destroyed")
    say(answer)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
