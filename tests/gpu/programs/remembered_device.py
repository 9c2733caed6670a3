"""`remembered_device RECORDING`: torch works on GPU 0 next, although CUDA's current device is still GPU 1.

So it is when a thread has worked on GPU 1 alone and GPU 0 got its context from another thread: torch could not go back
to a device without a context and only remembers it. Says what a spin inside a scope took by torch's own events.
"""

import sys
import threading

import torch

import wanhook
from gpu.cuda_errors import current_runtime_device
from gpu.processes import say
from gpu.programs.collectives import contexts
from gpu.spinning import nanoseconds, spin, timing_event


def main(recording: str) -> None:
    torch.cuda.init()
    torch.ones(1, device="cuda:1")
    before = contexts()
    thread = threading.Thread(target=torch.ones, args=(1,), kwargs={"device": "cuda:0"})
    thread.start()
    thread.join()
    wanhook.start(recording)
    answer = {"contexts": [before, contexts()], "current": [torch.cuda.current_device(), current_runtime_device()]}
    begin, end = timing_event(), timing_event()
    with wanhook.trace("request"):
        values = torch.ones(1 << 20, device="cuda")
        begin.record()
        spin(3_000)
        end.record()
        values.add_(1)
    torch.cuda.synchronize()
    answer |= {"nanoseconds": nanoseconds(begin, end), "device": values.device.index}
    wanhook.stop(wait=10)
    say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
