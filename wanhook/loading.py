"""What a stage of loading costs this process: CPU time, bytes read, page faults and resident memory, beside its scope.

    with loading.measured("load_t5", checkpoint=checkpoint_path):
        ...

opens the stage scope ``load_t5`` and, just before it ends, writes a mark named MARK into it with the figures of
`Reading` as arguments: the differences between the two ends, and some that stand for one end. analysis/loading.py reads
them; docs/metrics.md says what each can and cannot tell. Nothing here raises, and nothing is read while no scope is
recorded. CPU time of the process, bytes, faults and memory are the whole process's; where another thread was loading
too, ``shared`` says so.
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanhook.recording import mark, trace

MARK = "load measured"
# What from_pretrained() of diffusers and transformers reads of a folder, the first kind that is there. A .pth or .ckpt
# beside it is another component's: Wan keeps its T5, VAE and CLIP in the folder of the model.
_SAFETENSORS = ("", ".safetensors", ".safetensors.index.json")
_PICKLES = tuple((name, ".bin", ".bin.index.json") for name in ("diffusion_pytorch_model", "pytorch_model"))
_MOST_FILES = 10_000  # of a checkpoint's folder that are looked at
_LONGEST_INDEX = 64 << 20  # bytes
_KIB = 1 << 10

_open: list[measured] = []  # entered and not left, in any thread


@dataclass(frozen=True)
class Reading:
    """The process's counters at one moment. None: this kernel or container does not tell.

    ``storage_bytes``: what the kernel fetched from block devices for this process, mapped files included (read_bytes of
    /proc/self/io). ``read_call_bytes``: what read() and its like returned, from storage, page cache, pipes and sockets
    alike (rchar); reading mapped memory is no call. ``major_faults``, ``minor_faults``: pages of memory that had to be
    fetched from storage, or only to be mapped. ``resident_bytes``: memory in use; ``resident_file_bytes``: the part of
    it that shows mapped files.
    """

    thread_cpu_ns: int
    process_cpu_ns: int
    storage_bytes: int | None = None
    read_call_bytes: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    resident_bytes: int | None = None
    resident_file_bytes: int | None = None

    @classmethod
    def now(cls) -> Reading:
        """Takes some 50 µs: three system calls and two files of /proc."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        transfers, status = _fields("/proc/self/io"), _fields("/proc/self/status")
        return cls(
            thread_cpu_ns=time.thread_time_ns(),
            process_cpu_ns=time.process_time_ns(),
            storage_bytes=transfers.get("read_bytes"),
            read_call_bytes=transfers.get("rchar"),
            major_faults=usage.ru_majflt,
            minor_faults=usage.ru_minflt,
            resident_bytes=_scaled(status.get("VmRSS")),
            resident_file_bytes=_scaled(status.get("RssFile")),
        )


class measured:
    """A stage scope with its measurement. ``args`` go to wanhook.trace(). ``checkpoint``: file or folder that is
    loaded; of it only the size of its weights is recorded, never the name."""

    def __init__(self, name: str, *, checkpoint: object = None, **args) -> None:
        self._trace = trace(name, **args)
        self._checkpoint = checkpoint
        self._began: Reading | None = None
        self._shared = False
        self._thread = 0

    def __enter__(self):
        scope = self._trace.__enter__()
        try:
            if scope.id:
                self._begin()
        except Exception:  # a load without figures is still a load
            self._began = None
        return scope

    def __exit__(self, *exception) -> bool:
        try:
            if self in _open:
                _open.remove(self)
            if self._began is not None:
                mark(MARK, **self._figures(self._began, Reading.now()))
        except Exception:
            pass
        finally:
            self._began = None
            handled = self._trace.__exit__(*exception)
        return handled

    def _begin(self) -> None:
        self._thread = threading.get_ident()
        # No lock: a fork while another thread held it would stop the child for good. A list's copy and append are
        # whole under the GIL, and a race costs one word in the report.
        others = [other for other in tuple(_open) if other._thread != self._thread]
        self._shared = bool(others)
        for other in others:
            other._shared = True
        _open.append(self)
        self._began = Reading.now()

    def _figures(self, begin: Reading, end: Reading) -> dict[str, int | bool]:
        found = {name: _grown(getattr(begin, name), getattr(end, name)) for name in _COUNTED}
        for name in ("resident_bytes", "resident_file_bytes"):
            found[f"{name}_begin"], found[f"{name}_end"] = getattr(begin, name), getattr(end, name)
        found["checkpoint_bytes"] = checkpoint_bytes(self._checkpoint)
        found["shared"] = self._shared
        return {name: value for name, value in found.items() if value is not None}


_COUNTED = ("thread_cpu_ns", "process_cpu_ns", "storage_bytes", "read_call_bytes", "major_faults", "minor_faults")


def checkpoint_bytes(checkpoint: object) -> int | None:
    """Size of a file, or of the model's weights directly in a folder: the .safetensors files, those that an index names
    where there is one; without any, [diffusion_]pytorch_model*.bin. None where there are none, or for what is no path
    of this machine (a name on a hub)."""
    if not isinstance(checkpoint, str | os.PathLike):
        return None
    try:
        path = Path(checkpoint)
        if path.is_file():
            return path.stat().st_size
        with os.scandir(path) as entries:
            inside = {entry.name: entry for entry, _ in zip(entries, range(_MOST_FILES), strict=False)}
        for kind in (_SAFETENSORS, *_PICKLES):
            if names := _weights_of(kind, inside):
                return sum(inside[name].stat().st_size for name in names)
        return None
    except (OSError, ValueError):
        return None


def _weights_of(kind: tuple[str, str, str], inside: Mapping[str, os.DirEntry]) -> set[str]:
    """Names of the files of this kind: (begin of the name, its end, the end of an index's name)."""
    begin, end, index_end = kind
    found = {name for name in inside if name.startswith(begin) and name.endswith(end)}
    indexes = [entry for name, entry in inside.items() if name.startswith(begin) and name.endswith(index_end)]
    named = {name for index in indexes for name in _named_by(index)} & found
    return named or found


def _named_by(index: os.DirEntry) -> set[str]:
    """The files of weights that a *.index.json lists; none where it cannot be made sense of."""
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            return set()
        listed = json.loads(Path(index.path).read_bytes())["weight_map"].values()
        return {name for name in listed if isinstance(name, str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


def _fields(path: str) -> dict[str, int]:
    """``name: number`` lines of a file in /proc; units are left out. Empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            lines = file.read().decode("ascii", "replace").splitlines()
    except OSError:
        return {}
    pairs = [(name, rest.split()) for name, _, rest in (line.partition(":") for line in lines)]
    return {name: int(words[0]) for name, words in pairs if words and words[0].isdecimal()}


def _scaled(kib: int | None) -> int | None:
    return None if kib is None else kib * _KIB


def _grown(begin: int | None, end: int | None) -> int | None:
    return None if begin is None or end is None else end - begin
