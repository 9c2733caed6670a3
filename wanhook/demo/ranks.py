"""This process among the others: its rank, its device, and the process group."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """rank of size processes, on device. With one process there is no process group, as in Wan."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def open(cls, device_type: str) -> "Ranks":
        """Joins the process group that torchrun's environment describes; device_type is "cuda" or "cpu".

        The device is set before anything else can touch CUDA: the context would land on GPU 0 otherwise.
        """
        rank = int(os.environ.get("RANK", "0"))
        size = int(os.environ.get("WORLD_SIZE", "1"))
        device = torch.device("cpu")
        if device_type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if size > 1:
            dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        return cls(rank, size, device)

    def barrier(self) -> None:
        """Blocks until every rank is here. NCCL guesses a device, and warns, unless it is told one."""
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
