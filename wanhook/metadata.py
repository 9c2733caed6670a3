"""What a trace says about the run it belongs to. Nothing here may hold a secret, a prompt or a path of the user."""

import json
import os
import platform
import re
from pathlib import Path

import orjson
import torch

from wanhook import __version__
from wanhook._native import load as load_native

_C = load_native()

# Settings that explain a figure. Everything else in the environment stays out of the file.
_PREFIXES = ("WAN_", "WANHOOK_", "PYTORCH_", "TORCH_", "NCCL_", "CUDA_", "OMP_")
_LARGEST = 60_000  # bytes of one record


def describe_start(level: str, run_id: str, run_name: str, recording: int, started_by: str) -> dict:
    """Meta data known when a recording starts; see docs/trace-format.md for the keys."""
    return {
        "wanhook": {"version": __version__, "level": level, "torch_built": _C.torch_built, "cuda": _C.has_cuda},
        "run": {
            "id": run_id,
            "name": run_name,
            "restart": _whole_number("TORCHELASTIC_RESTART_COUNT") or 0,
            "recording": recording,
            "started_by": started_by,
        },
        "process": {
            "pid": os.getpid(),
            "host": platform.node(),
            "boot_id": _read("/proc/sys/kernel/random/boot_id"),
            "pid_namespace": _link("/proc/self/ns/pid"),
            "python": platform.python_version(),
        },
        "environment": _environment(),
        **settings_at_start(describe_now()),
    }


def describe_now(cuda: bool | None = None) -> dict:
    """Meta data that can come late: written when a recording starts, when CUDA comes up and when it stops.

    ``cuda``: whether CUDA is initialised; asked of torch if None, which says no while it is at it.
    """
    cuda = torch.cuda.is_initialized() if cuda is None else cuda
    return {
        "rank": _rank(),
        "versions": _versions(cuda),
        "device": _device(cuda),
        "allocator": _allocator(cuda),
        "groups": _groups(),
    }


def append(meta: dict) -> None:
    """Writes to the recording that runs: one record for each top-level key that would make a record too long; readers
    merge them."""
    encoded = _encoded(meta)
    if len(encoded) <= _LARGEST:
        _C.append_meta(encoded)
        return
    for key, value in meta.items():
        piece = _encoded({key: value})
        if len(piece) <= _LARGEST:
            _C.append_meta(piece)


def _encoded(meta: dict) -> bytes:
    try:
        return orjson.dumps(meta, default=str)
    except TypeError:  # a name, or a value of the environment, that is no text
        return json.dumps(meta, default=str, ensure_ascii=False).encode("utf-8", "replace")


def rank() -> int | None:
    """Global rank, None while it is not known."""
    return _rank().get("rank")


def ranks_on_this_host() -> int:
    """Ranks that share this host's disk, as far as the launcher tells; at least 1."""
    return _whole_number("LOCAL_WORLD_SIZE") or 1


def _rank() -> dict:
    found = {
        "rank": _whole_number("RANK"),
        "world_size": _whole_number("WORLD_SIZE"),
        "local_rank": _whole_number("LOCAL_RANK"),
        "local_world_size": _whole_number("LOCAL_WORLD_SIZE"),
    }
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        found["rank"] = torch.distributed.get_rank()
        found["world_size"] = torch.distributed.get_world_size()
    return {key: value for key, value in found.items() if value is not None}


def _versions(cuda: bool) -> dict:
    versions = {"torch": str(torch.__version__), "cuda": torch.version.cuda}
    if cuda:
        versions["nccl"] = _nccl_version()
        versions["driver"] = _driver_version()
    return {key: value for key, value in versions.items() if value}


def _nccl_version() -> str | None:
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except Exception:
        return None


def _driver_version() -> str | None:
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _read("/proc/driver/nvidia/version") or "")
    return match[1] if match else None


def _device(cuda: bool) -> dict:
    """The current GPU once CUDA is initialised, and never a reason to initialise it."""
    if not cuda:
        return {"type": "cpu", "name": platform.processor() or platform.machine()}
    index = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(index)
    return {
        "type": "cuda",
        "index": index,
        "name": properties.name,
        "uuid": f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else None,
        "total_memory": properties.total_memory,
    }


def _allocator(cuda: bool) -> dict:
    settings = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    if not cuda:
        return {"backend": "cpu"}
    in_use = _C.cuda_allocator_settings()
    return {"backend": torch.cuda.get_allocator_backend(), "settings": settings, "settings_in_use": in_use}


def settings_at_start(meta: dict) -> dict:
    """Keeps in ``meta``, as written when CUDA's part of a recording begins, the allocator settings of that moment."""
    allocator = meta["allocator"]
    if "settings_in_use" in allocator:
        allocator["settings_at_start"] = allocator["settings_in_use"]
    return meta


def _groups() -> dict:
    """Members and purpose of each process group, by the name that the collective records use."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return {}
    c10d = torch.distributed.distributed_c10d
    groups = {}
    for group, members in c10d._world.pg_group_ranks.items():
        try:
            groups[group.group_name] = {
                "ranks": sorted(members),
                "backend": c10d.get_backend(group),
                "description": group.group_desc,
            }
        except Exception:  # a group of another kind, or one that is being destroyed
            continue
    return groups


def _environment() -> dict:
    """The whitelisted variables; values that name a place on disk are left out."""
    kept = {key: value for key, value in sorted(os.environ.items()) if key.startswith(_PREFIXES)}
    return {key: "<path>" if "/" in value else value[:200] for key, value in kept.items()}


def _whole_number(variable: str) -> int | None:
    value = os.environ.get(variable, "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
