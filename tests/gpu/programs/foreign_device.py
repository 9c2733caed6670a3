"""`foreign_device STORE RECORDING`: a rank that never makes the device of its tensors current; `none` does not record.

For rank 1 the current device stays GPU 0, where it has nothing; its device's current stream is a side stream. Says what
torch thinks is current after each call, on which GPUs the process has a context, and what an independent pair of events
around each synchronous call took.
"""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist

from gpu.cuda_errors import last_error
from gpu.processes import say
from gpu.programs.collectives import contexts
from gpu.spinning import calibrate, nanoseconds, spin, timing_event

SYNC = ("allreduce_", "alltoall_base_", "alltoall_", "_allgather_base_")
CALLS = 10
ELEMENTS = 1 << 20  # float32, of each part


def make_calls(device: torch.device, world_size: int) -> dict[str, Callable[..., object]]:
    """Collectives on tensors of ``device``, by the name of their c10d operator."""
    parts = [torch.ones(ELEMENTS, device=device) for _ in range(world_size)]
    outputs = [torch.empty(ELEMENTS, device=device) for _ in range(world_size)]
    joined, exchanged = torch.cat(parts), torch.empty(ELEMENTS * world_size, device=device)
    summed = torch.zeros(ELEMENTS, device=device)
    return {
        "allreduce_": lambda **options: dist.all_reduce(summed, **options),
        "alltoall_base_": lambda: dist.all_to_all_single(exchanged, joined),
        "alltoall_": lambda: dist.all_to_all(outputs, parts),
        "_allgather_base_": lambda: dist.all_gather_into_tensor(exchanged, parts[0]),
    }


class Rank:
    """A rank's device, stream and calls, recorded or not."""

    def __init__(self, rank: int, world_size: int, recorded: bool):
        self.device = torch.device("cuda", rank)
        self._recorded = recorded
        with torch.cuda.device(self.device):
            self.stream = torch.cuda.Stream()
            torch.cuda.set_stream(self.stream)
            calibrate()
        self.calls = make_calls(self.device, world_size)
        for call in self.calls.values():
            call()
        torch.cuda.synchronize(self.device)

    def work(self) -> dict:
        pairs, current = {}, []
        with self.scope("request"):
            for name in SYNC:
                with self.role(name):
                    pairs[name] = [self.timed(self.calls[name]) for _ in range(CALLS)]
                current.append(torch.cuda.current_device())
            with self.role("async"):
                self.calls["allreduce_"](async_op=True).wait()
            self.scope_left_elsewhere()
            current.append(torch.cuda.current_device())
        torch.cuda.synchronize(self.device)
        times = {name: [nanoseconds(*pair) for pair in measured] for name, measured in pairs.items()}
        return {"nanoseconds": times, "current": current, "last_error": last_error()}

    def timed(self, call: Callable[[], object]):
        """The stream is kept busy meanwhile, so that the host is never late."""
        begin, end = timing_event(), timing_event()
        with torch.cuda.device(self.device):
            spin(1_500)
        begin.record(self.stream)
        call()
        end.record(self.stream)
        return begin, end

    def scope_left_elsewhere(self) -> None:
        """Entered with the device's stream current, left with the device that was current before."""
        scope = self.scope("elsewhere")
        with torch.cuda.stream(self.stream):
            scope.__enter__()
            spin(500)
        scope.__exit__(None, None, None)

    def scope(self, name: str):
        return self._watched("trace", name, level="op")

    def role(self, name: str):
        return self._watched("role", name)

    def _watched(self, function: str, *arguments, **options):
        if not self._recorded:
            return nullcontext()
        import wanhook

        return getattr(wanhook, function)(*arguments, **options)


def main(store: str, recording: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.init()
    device = torch.device("cuda", rank)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world_size, device_id=device)
    this = Rank(rank, world_size, recording != "none")
    if recording != "none":
        import wanhook

        wanhook.start(recording)
    answer = this.work()
    if recording != "none":
        wanhook.stop(wait=10)
    say(answer | {"rank": rank, "contexts": contexts(), "stream": this.stream.cuda_stream})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
