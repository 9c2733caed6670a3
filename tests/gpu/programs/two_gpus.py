"""`two_gpus RECORDING`: one process, two GPUs, a thread for each.

Each thread has a device, a stream and scopes of its own, allocates on both devices, and copies to the other GPU. Says,
for each device, what torch's own counters, events and streams say of it.
"""

import gc
import sys
import threading

import torch

import wanhook
from gpu.allocating import counters, growth, random_operations
from gpu.cuda_errors import current_runtime_device, last_error
from gpu.processes import say
from gpu.programs.collectives import contexts
from gpu.spinning import calibrate, nanoseconds, spin, timing_event, watched_spin

MIB = 1 << 20
DEVICES = (0, 1)
LENGTHS = (300, 700)  # microseconds of a spin, by device
CALLS = 20
AHEAD = 15_000  # a thread can wait for the GIL for 5 ms, more than once
ABROAD = (37 * MIB, 41 * MIB)  # bytes that the thread of each device allocates on the other one
PATIENCE = 60.0


class Worker:
    """What the thread of one device does and finds. Made, with its tensors, on the main thread."""

    def __init__(self, device: int, together: threading.Barrier):
        self.device, self.other, self._together = device, 1 - device, together
        self.stream = torch.cuda.Stream(device)
        self.source = torch.arange(8 * MIB, dtype=torch.int32, device=f"cuda:{device}") + device
        self.copy = torch.empty_like(self.source, device=f"cuda:{self.other}")
        self.copy.copy_(self.source)  # opens the way between the GPUs
        self.spins, self.copies, self.found = [], [], {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            torch.cuda.set_device(self.device)
            with torch.cuda.stream(self.stream), wanhook.trace(f"thread{self.device}"):
                self._together.wait(PATIENCE)
                random_operations(self.device, 600)
                self.allocate_abroad()
                self._together.wait(PATIENCE)
                self.spins = [watched_spin(f"spin{self.device}", LENGTHS[self.device], AHEAD) for _ in range(CALLS)]
                self.copies = [self.timed_copy() for _ in range(CALLS)]
            self.found = {
                "tid": threading.get_native_id(),
                "last_error": last_error(),
                "current": [torch.cuda.current_device(), current_runtime_device()],
            }
        except BaseException as error:
            self.error = error
            self._together.abort()

    def allocate_abroad(self) -> None:
        with wanhook.trace(f"abroad{self.device}"):
            torch.empty(ABROAD[self.device], dtype=torch.uint8, device=f"cuda:{self.other}")

    def timed_copy(self):
        begin, end = timing_event(), timing_event()
        spin(AHEAD)
        with wanhook.trace(f"copy{self.device}", level="op"):
            begin.record()
            self.copy.copy_(self.source, non_blocking=True)
            end.record()
        return begin, end

    def answer(self) -> dict:
        return self.found | {
            "stream": self.stream.cuda_stream,
            "spins": [nanoseconds(*pair) for pair in self.spins],
            "copies": [nanoseconds(*pair) for pair in self.copies],
            "copied": torch.equal(self.copy.cpu(), self.source.cpu()),
        }


def of_each_device(function, *arguments) -> list:
    found = []
    for device in DEVICES:
        with torch.cuda.device(device):
            found.append(function(*(each[device] for each in arguments)))
    return found


def totals() -> dict[str, int]:
    stats = torch.cuda.memory_stats()
    return {name: stats[f"{name}_bytes.all.current"] for name in ("allocated", "reserved", "active", "requested")}


def run_all(workers: list[Worker]) -> None:
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    for device in DEVICES:
        torch.cuda.synchronize(device)


def main(recording: str) -> None:
    together = threading.Barrier(len(DEVICES))
    calibrate()
    workers = [Worker(device, together) for device in DEVICES]
    of_each_device(random_operations, (7, 7), (20, 20))  # what is made at a first use
    for device in DEVICES:
        torch.cuda.synchronize(device)
    gc.collect()
    gc.disable()  # nothing is freed in the middle of a count
    wanhook.start(recording)
    before = of_each_device(counters)
    run_all(workers)
    answer = {"growth": of_each_device(growth, before), "totals": of_each_device(totals), "contexts": contexts()}
    wanhook.stop(wait=10)
    say(answer | {"devices": [worker.answer() for worker in workers]})


if __name__ == "__main__":
    main(*sys.argv[1:])
