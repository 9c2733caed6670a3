"""What can watch a request: nothing, wanhook, torch.profiler and torch's memory history, each a context manager.

An observer is entered before the clock of a request starts and left after it has stopped, so that a request's time
holds what the observer does while it watches, and neither its start nor its export. Both are timed apart.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import torch


class Nothing:
    """No observer. The base of the others: `output` is the folder or file that one observation wrote, if any."""

    name = "none"

    def __init__(self, folder: Path, rank: int, export: bool = True):
        self.folder, self.rank, self.export = folder, rank, export
        self.output: Path | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        return None

    def output_bytes(self) -> int:
        """Bytes that this rank wrote."""
        return self.output.stat().st_size if self.output and self.output.is_file() else 0


class Recording(Nothing):
    """wanhook: allocator events, collectives, and the scope `request`. Wan's own code is untouched."""

    name = "wanhook"
    with_scopes = False

    def __enter__(self):
        import wanhook

        self.output = self.folder
        self._stack = ExitStack()
        self._stack.enter_context(wanhook.trace("request", out=str(self.folder)))
        if self.with_scopes:
            from .scopes import wan_scopes

            self._stack.enter_context(wan_scopes())
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def output_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob(f"*-{os.getpid()}-*.wanhook"))


class RecordingWithScopes(Recording):
    """The same with the scopes and roles of `scopes.wan_scopes`."""

    name = "wanhook+scopes"
    with_scopes = True


class WrappersAlone(Nothing):
    """The integrations' wrappers and what is attached, while nothing is recorded: in a recording that is paused, for
    without one Wan's outermost scope would begin it."""

    name = "wrappers"

    def __enter__(self):
        import wanhook

        from .scopes import wan_scopes

        self._stack = ExitStack()
        wanhook.start(str(self.folder))
        self._stack.callback(wanhook.stop)
        wanhook.pause()
        self._stack.enter_context(wan_scopes())
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)


class RecordingStages(RecordingWithScopes):
    """All of it down to the scopes of stages: fewer scopes, the same allocator events and collectives."""

    name = "wanhook+stages"
    level = "stage"

    def __enter__(self):
        import wanhook

        from .scopes import wan_scopes

        self.output = self.folder
        self._stack = ExitStack()
        wanhook.start(str(self.folder), level=self.level)
        self._stack.callback(wanhook.stop)
        self._stack.enter_context(wanhook.trace("request"))
        self._stack.enter_context(wan_scopes())
        return self


class RecordingBlocks(RecordingStages):
    """Down to blocks."""

    name = "wanhook+blocks"
    level = "block"


class ProfilerMinimal(Nothing):
    """torch.profiler, CUDA activities only (CPU activities where there is no GPU)."""

    name = "profiler-minimal"

    def _profile(self):
        kinds = torch.profiler.ProfilerActivity
        return torch.profiler.profile(activities=[kinds.CUDA if torch.cuda.is_available() else kinds.CPU])

    def __enter__(self):
        self._profiler = self._profile()
        self._profiler.__enter__()
        return self

    def __exit__(self, *exception):
        self._profiler.__exit__(*exception)
        if self.export:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.output = self.folder / f"{self.name}-rank{self.rank}.json"
            self._profiler.export_chrome_trace(str(self.output))
        self._profiler = None


class ProfilerFull(ProfilerMinimal):
    """torch.profiler with CPU and CUDA activities, shapes, memory and Python stacks."""

    name = "profiler-full"

    def _profile(self):
        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CPU, kinds.CUDA] if torch.cuda.is_available() else [kinds.CPU]
        return torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True, with_stack=True)


class MemoryHistory(Nothing):
    """`torch.cuda.memory._record_memory_history` with Python stacks; needs a GPU."""

    name = "memory-history"

    def __enter__(self):
        torch.cuda.memory._record_memory_history(enabled="all", context="all", stacks="python", max_entries=1_000_000)
        return self

    def __exit__(self, *_exception):
        if self.export:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.output = self.folder / f"{self.name}-rank{self.rank}.pickle"
            torch.cuda.memory._dump_snapshot(str(self.output))
        torch.cuda.memory._record_memory_history(enabled=None)


def peers() -> list[type[Nothing]]:
    """The observers of others that run on this machine."""
    return [ProfilerMinimal, ProfilerFull] + ([MemoryHistory] if torch.cuda.is_available() else [])
