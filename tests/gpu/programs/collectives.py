"""`collectives STORE RECORDING`, one process a rank: every collective bare, hooked and recorded over NCCL.

Says, for each, a digest of what it computed in each of the three states, and how long an independent pair of events
around the recorded calls took.
"""

import gc
import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from gpu.processes import MADE_UP, say
from gpu.spinning import calibrate, nanoseconds, spin, timing_event

TIMED = (
    "alltoall_", "alltoall_base_", "allgather_", "_allgather_base_", "reduce_scatter_", "_reduce_scatter_base_",
    "allreduce_", "broadcast_",
)  # fmt: skip
CALLS = 10
ELEMENTS = 1 << 20  # float32, of each part: long enough to be told from two event records


@dataclass
class Operation:
    """One collective on tensors of its own; ``prepare`` makes the input anew, ``outputs`` is what a call writes."""

    call: Callable[[], object]
    outputs: list[torch.Tensor]
    prepare: Callable[[], object] = field(default=lambda: None)

    def digest(self) -> str:
        """SHA-256 of the outputs of one fresh call, which were poisoned before."""
        for output in self.outputs:
            output.fill_(float("nan"))
        self.prepare()
        self.call()
        torch.cuda.synchronize()
        found = hashlib.sha256()
        for output in self.outputs:
            assert not torch.isnan(output).any()
            found.update(output.cpu().numpy().tobytes())
        return found.hexdigest()


def operations(rank: int, world_size: int) -> dict[str, Operation]:
    """The collectives that Wan's kind of program uses, by the name of their c10d operator."""
    torch.manual_seed(rank)
    parts = [torch.randn(ELEMENTS, device="cuda") for _ in range(world_size)]
    joined, single = torch.cat(parts), torch.randn(ELEMENTS, device="cuda")

    def empty_parts() -> list[torch.Tensor]:
        return [torch.empty(ELEMENTS, device="cuda") for _ in range(world_size)]

    def empty(elements: int) -> torch.Tensor:
        return torch.empty(elements, device="cuda")

    lists, gathered = empty_parts(), empty_parts()
    exchanged, all_gathered = empty(ELEMENTS * world_size), empty(ELEMENTS * world_size)
    reduced, scattered, summed, sent = empty(ELEMENTS), empty(ELEMENTS), empty(ELEMENTS), empty(ELEMENTS)
    return {
        "alltoall_": Operation(lambda: dist.all_to_all(lists, parts), lists),
        "alltoall_base_": Operation(lambda: dist.all_to_all_single(exchanged, joined), [exchanged]),
        "allgather_": Operation(lambda: dist.all_gather(gathered, single), gathered),
        "_allgather_base_": Operation(lambda: dist.all_gather_into_tensor(all_gathered, single), [all_gathered]),
        "reduce_scatter_": Operation(lambda: dist.reduce_scatter(reduced, parts), [reduced]),
        "_reduce_scatter_base_": Operation(lambda: dist.reduce_scatter_tensor(scattered, joined), [scattered]),
        "allreduce_": Operation(lambda: dist.all_reduce(summed), [summed], lambda: summed.copy_(single)),
        "broadcast_": Operation(lambda: dist.broadcast(sent, 0), [sent], lambda: sent.copy_(single)),
    }


def digests(known: dict[str, Operation]) -> dict[str, str]:
    return {name: operation.digest() for name, operation in known.items()}


def time_calls(name: str, operation: Operation) -> list[float]:
    """ns between two events right around each call, the stream kept busy so that the host is never late."""
    import wanhook

    pairs = []
    with wanhook.role(name):
        for _ in range(CALLS):
            operation.prepare()
            begin, end = timing_event(), timing_event()
            spin(1_500)
            begin.record()
            operation.call()
            end.record()
            pairs.append((begin, end))
    torch.cuda.synchronize()
    return [nanoseconds(*pair) for pair in pairs]


def other_calls(rank: int, world_size: int) -> None:
    """Asynchronous calls, coalesced groups, and objects."""
    import wanhook

    first, second = torch.ones(64, device="cuda"), torch.ones(128, device="cuda")
    with wanhook.role("async"):
        dist.all_reduce(first, async_op=True).wait()
    with wanhook.role("coalesced"), dist._coalescing_manager():
        dist.all_reduce(first)
        dist.all_reduce(second)
    if world_size > 1:
        peers = (rank + 1) % world_size, (rank - 1) % world_size
        with wanhook.role("batched"):
            moves = [dist.P2POp(dist.isend, first, peers[0]), dist.P2POp(dist.irecv, second[:64], peers[1])]
            for work in dist.batch_isend_irecv(moves):
                work.wait()
    if not MADE_UP:  # a size that kernels put together comes first
        with wanhook.role("object"):
            dist.broadcast_object_list([rank], src=0)
    torch.cuda.synchronize()


def captured_call(world_size: int) -> str:
    """An all_reduce in a graph, replayed; "" when it gave the right sum, else what went wrong."""
    import wanhook

    source, total = torch.ones(256, device="cuda"), torch.zeros(256, device="cuda")
    torch.cuda.synchronize()
    time.sleep(0.5)  # NCCL's watchdog forgets the calls that are done: it asks after their events
    graph = torch.cuda.CUDAGraph()
    try:
        with wanhook.role("captured"), torch.cuda.graph(graph):
            total.copy_(source)
            dist.all_reduce(total)
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


def contexts() -> list[int]:
    return [index for index in range(torch.cuda.device_count()) if torch._C._cuda_hasPrimaryContext(index)]


def main(store: str, recording: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world_size, device_id=device)
    known = operations(rank, world_size)
    assert tuple(known) == TIMED
    answer = {"bare": digests(known)}
    import wanhook

    wanhook.mark("imports the recording half")
    answer["hooked"] = digests(known)
    calibrate()
    torch.cuda.synchronize()
    wanhook.start(recording)
    answer["recorded"] = digests(known)
    answer["nanoseconds"] = {name: time_calls(name, operation) for name, operation in known.items()}
    other_calls(rank, world_size)
    answer["capture_problem"] = captured_call(world_size)
    wanhook.stop(wait=10)
    answer |= {"rank": rank, "device": device.index, "contexts": contexts(), "pid": os.getpid()}
    say(answer)
    del known
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
