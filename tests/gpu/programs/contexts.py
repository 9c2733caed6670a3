"""`contexts DEVICE RECORDING`: works on one GPU only, without ever making it the current device for good.

RECORDING is a directory, or `none` for the same program without wanhook. Says on which GPUs the process has a CUDA
context after each stage: no recorder may add one.
"""

import os
import sys
import tempfile
import threading
import time
from contextlib import nullcontext

import torch
import torch.distributed as dist

from gpu.processes import say
from gpu.programs.collectives import contexts
from gpu.spinning import nanoseconds, timing_event


def main(device: int, recording: str) -> None:
    torch.cuda.init()
    answer = {"initialised": contexts()}

    def scope(name: str):
        if recording == "none":
            return nullcontext()
        import wanhook

        return wanhook.trace(name)

    if recording != "none":
        import wanhook

        wanhook.start(recording)
    # As in a rank whose program opens its outermost scope before set_device(): the current device is still GPU 0.
    with scope("early"):
        time.sleep(0.1)
    answer["early scope"] = contexts()

    values = torch.ones(1 << 20, device=f"cuda:{device}")
    with scope("work"):
        values.add_(1)
    answer["work on the device"] = contexts()

    thread = threading.Thread(target=enter_and_leave, args=(scope,))
    thread.start()
    thread.join()
    answer["scope on a fresh thread"] = contexts()

    answer["nanoseconds"] = collective_from_elsewhere(device, values)
    answer["collective"] = contexts()
    if recording != "none":
        wanhook.stop(wait=10)
    time.sleep(0.05)
    answer["stopped"] = contexts()
    say(answer)
    dist.destroy_process_group()


def enter_and_leave(scope) -> None:
    # A thread's current device is 0 until somebody sets it.
    with scope("thread"):
        time.sleep(0.05)


def collective_from_elsewhere(device: int, values: torch.Tensor) -> float:
    """An all_reduce on a thread whose current device is 0, for a tensor that is not there; ns by torch's events."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    store = dist.FileStore(tempfile.mktemp(), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=torch.device("cuda", device))
    dist.all_reduce(values)
    torch.cuda.synchronize(device)
    found = []

    def call() -> None:
        stream = torch.cuda.current_stream(device)
        begin, end = timing_event(), timing_event()
        begin.record(stream)
        dist.all_reduce(values)
        end.record(stream)
        stream.synchronize()
        found.append(nanoseconds(begin, end))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
