"""Which processes hold a CUDA context on which GPU: a rank must hold one on its own GPU only."""

from __future__ import annotations

import os

import torch

from .harness import Ranks


def own_contexts() -> list[int]:
    """Indices of the visible GPUs on which this process has a primary context, as the driver says."""
    return [index for index in range(torch.cuda.device_count()) if torch._C._cuda_hasPrimaryContext(index)]


def processes_by_gpu() -> dict[str, list[int]] | None:
    """Process ids with a compute context, by GPU UUID, as NVML says; None where NVML or its process list is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    found = {}
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            uuid = uuid.decode() if isinstance(uuid, bytes) else uuid
            found[uuid] = sorted(process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except pynvml.NVMLError:
        return None
    return found


def foreign_contexts(ranks: Ranks) -> tuple[list[str], str]:
    """(one sentence for each context on another rank's GPU, how it was looked up). Every rank must call it.

    The driver's answer for the own process counts; NVML's list, where it names our processes, must not contradict it.
    """
    uuid = f"GPU-{torch.cuda.get_device_properties(ranks.device).uuid}"
    members = ranks.gather({"pid": os.getpid(), "uuid": uuid, "gpu": ranks.device.index, "contexts": own_contexts()})
    problems = [
        f"rank {rank} has a context on GPU {index}"
        for rank, member in enumerate(members)
        for index in member["contexts"]
        if index != member["gpu"]
    ]
    listed = processes_by_gpu()
    owners = {member["pid"]: rank for rank, member in enumerate(members)}
    if not listed or not any(pid in owners for pids in listed.values() for pid in pids):
        return problems, "driver; NVML lists none of our processes here"
    for uuid, pids in listed.items():
        problems += [
            f"NVML lists rank {owners[pid]} on {uuid}"
            for pid in pids
            if pid in owners and members[owners[pid]]["uuid"] != uuid
        ]
    return problems, "driver and NVML"
