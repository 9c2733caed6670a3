"""Where a recording's file goes, so that all ranks of one run agree on a directory without a collective.

The name comes from the process that started all ranks (torchrun's agent, the parent of multiprocessing's children, else
this process): its start time and pid. Where torch.distributed is up, its store settles the matter for all hosts.
"""

import itertools
import multiprocessing
import os
import time
from pathlib import Path

import torch.distributed as dist

BASE = "wanhook-runs"


def run_name() -> str:
    """``<start time>-<pid>`` of the process that stands for the run, the same in all its ranks on one host."""
    pid = _leader()
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime(_start_time(pid)))
    return f"{started}-{pid}"


def is_one_launch_on_one_host() -> bool:
    """True when run_name() is the same in all ranks without asking anybody."""
    world, local = os.environ.get("WORLD_SIZE"), os.environ.get("LOCAL_WORLD_SIZE")
    return "TORCHELASTIC_RUN_ID" in os.environ and world is not None and world == local


def can_agree() -> bool:
    """True when torch.distributed is up with more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agree(name: str, recording: int) -> str:
    """The name that all ranks use: the first one that any of them put into the store; ``name`` itself where the store
    does not answer. Needs can_agree()."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.compare_set(f"wanhook/run/{recording}", "", name).decode()
    except Exception:
        return name


def file_path(directory: Path, rank: int | None, recording: int) -> Path:
    """A name that no other process or recording uses; rank and run are in the file itself."""
    label = "rank-none" if rank is None else f"rank{rank:05d}"
    return directory / f"{label}-{os.getpid()}-{recording}.wanhook"


def unused_path(directory: Path, rank: int | None, recording: int) -> Path:
    """file_path(), or one beside it where an earlier process had the same id, as in containers."""
    path = file_path(directory, rank, recording)
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _leader() -> int:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.getppid()
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def _start_time(pid: int) -> float:
    """Unix time at which a process began; now, where /proc does not tell."""
    try:
        # Behind the process's name, which need not be text.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return int(line.split()[1]) + since_boot
    except (OSError, ValueError, IndexError):
        pass
    return time.time()
