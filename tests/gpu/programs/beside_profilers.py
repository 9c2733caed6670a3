"""`beside_profilers RECORDING`: torch.profiler and the memory history at work while a recording runs."""

import sys

import torch
from torch.profiler import ProfilerActivity, profile

from gpu.allocating import counters, growth, random_operations
from gpu.cuda_errors import last_error
from gpu.processes import say


def main(recording: str) -> None:
    import wanhook

    torch.zeros(1, device="cuda")
    wanhook.start(recording)
    before = counters()
    torch.cuda.memory._record_memory_history(enabled="all", context="all", stacks="python", max_entries=100_000)
    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=kinds, profile_memory=True) as profiler, wanhook.trace("profiled"):
        for _ in range(20):
            with wanhook.trace("matmul", level="op"):
                torch.randn(512, 512, device="cuda") @ torch.randn(512, 512, device="cuda")
        random_operations(seed=4, count=500)
        torch.cuda.synchronize()
    history = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    with wanhook.trace("after"):
        random_operations(seed=5, count=100)
    torch.cuda.synchronize()
    answer = {"growth": growth(before), "last_error": last_error()}
    wanhook.stop(wait=10)
    answer |= {
        "kernels": sum("cuda" in str(event.device_type).lower() for event in profiler.events()),
        "history": sum(len(trace) for trace in history["device_traces"]),
    }
    say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
