"""`peaks RECORDING`: a small model in inference and training; RECORDING is a directory, or `none` for no recorder.

Says the allocator's peaks and a digest of the result: neither may depend on the recorder.
"""

import hashlib
import sys
from contextlib import ExitStack, nullcontext

import torch

from gpu.processes import say


def work(scope) -> torch.Tensor:
    torch.manual_seed(5)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.GELU(), torch.nn.Conv2d(64, 64, 3, padding=1),
        torch.nn.Flatten(), torch.nn.Linear(64 * 64 * 64, 128),
    ).cuda()  # fmt: skip
    side, total = torch.cuda.Stream(), torch.zeros(128, device="cuda")
    with scope("request"):
        for step in range(12):
            images = torch.randn(4 + step % 5, 3, 64, 64, device="cuda")
            with scope("step"):
                output = model(images)
                output.square().mean().backward()
            with torch.cuda.stream(side), scope("side"):
                torch.empty((step + 1) << 20, device="cuda").zero_()
            side.synchronize()
            total += output.detach().sum(0)
            if step % 4 == 3:
                torch.cuda.empty_cache()
    return total


def main(recording: str) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    with ExitStack() as stack:
        scope = nullcontext
        if recording != "none":
            import wanhook

            wanhook.start(recording)
            stack.callback(wanhook.stop, wait=10)
            scope = wanhook.trace
        result = work(scope)
        torch.cuda.synchronize()
    stats = torch.cuda.memory_stats()
    say({
        "allocated": stats["allocated_bytes.all.peak"],
        "reserved": stats["reserved_bytes.all.peak"],
        "segments": stats["segment.all.allocated"],
        "allocations": stats["allocation.all.allocated"],
        "result": hashlib.sha256(result.cpu().numpy().tobytes()).hexdigest(),
    })  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
