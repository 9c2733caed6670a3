"""`sampled RECORDING`: works on the first GPU it sees for two seconds. Says that GPU's UUID by torch, and on which GPUs
the process has a CUDA context before and after the recorder asked NVML."""

import sys
import time

import torch

import wanhook
from gpu.processes import say
from gpu.programs.collectives import contexts


def main(recording: str) -> None:
    values = torch.ones(2048, 2048, device="cuda")
    before = contexts()
    wanhook.start(recording)
    with wanhook.trace("work"):
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for _ in range(20):
                values @ values
            torch.cuda.synchronize()
    wanhook.stop(wait=10)
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    say({"uuid": uuid, "before": before, "after": contexts()})


if __name__ == "__main__":
    main(sys.argv[1])
