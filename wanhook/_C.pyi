"""The native half of the recorder. Not a public interface: use wanhook's own functions."""

from collections.abc import Callable
from typing import Any

torch_built: str
has_cuda: bool

class Scope:
    """An entered scope; usable as ``parent=``."""

    @property
    def id(self) -> int: ...

class Trace:
    """A named scope to be entered, or a decorator."""

    def __enter__(self) -> Scope: ...
    def __exit__(self, *exception: object) -> bool: ...
    def __call__(self, function: Callable) -> Callable: ...

class Role:
    """Tags the collectives of this thread."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> bool: ...

def trace(
    name: str,
    *,
    level: str = "stage",
    parent: Scope | None = None,
    out: Any = None,
    verify: bool = False,
    **args: Any,
) -> Trace: ...
def again(trace: Trace) -> Trace: ...
def begin_outermost(trace: Trace) -> int:
    """Starts a recording if none runs and no scope is open; its number, or 0."""

def end_outermost(number: int) -> None: ...
def mark(name: str, **args: Any) -> None: ...
def role(name: str, unit: str = "", /) -> Role: ...
def call_natively(function: Callable, kind: str) -> Callable:
    """Makes eager calls of this Python function run in the extension; the same function. Raises ValueError where the
    names of its free variables are not those of the kind (native_calls.cpp)."""

def begin_wait(name: str) -> bool:
    """Opens a scope of type wait on this thread's current stream; False when one is open or nothing is recorded."""

def end_wait() -> None:
    """Closes this thread's wait, if one is open."""

def set_outermost_hooks(begin: Callable, end: Callable, decorate: Callable) -> None:
    """``begin`` is called with a scope's ``out`` and, where it says verify=True, its name (else None)."""

def watch_scopes(name: str, entered: Callable[[], int], left: Callable[[int, int], None]) -> None:
    """From now on ``entered`` is called before a scope of that name begins while something is recorded. Where it does
    not answer 0, ``left`` is called with that answer and the scope's id (0: not recorded) after that scope ended. One
    name at a time."""

def watch_no_scopes() -> None: ...
def attach_cuda_memory() -> None: ...
def attach_cpu_memory() -> None: ...
def cuda_allocator_settings() -> str: ...
def attach_collectives() -> list[str]: ...
def start(path: bytes, capacity_bytes: int, level: int, verified: bytes) -> int:
    """0, or an errno value. ``verified``: name of the scopes that are steps of the perturbation check, "" for none."""

def stop(at_exit: bool, wait_ns: int) -> bool: ...
def pause() -> bool: ...
def resume() -> bool: ...
def finish_all(timeout_ns: int) -> None: ...
def append_meta(json: bytes) -> bool: ...
def append_kernels(window: int, rows: list[tuple[str, int, int, int, int, int]]) -> int:
    """Rows of (name, device, stream number, begin, end, launch), times in ns of CLOCK_REALTIME; how many got room."""

def snapshot(reason: int) -> None: ...
def sample(edge: int) -> None: ...
def status() -> dict[str, Any]: ...
def leftovers() -> list[str]:
    """What a test must not leave behind, as sentences."""

def set_watermark(share: float | None, reached: Callable[[float, str], None]) -> None:
    """``reached(used, path)`` is called at each edge of a recorded stage at which that share of the device's memory, or
    more, is in use; None: never."""

def enter_coalesced() -> int:
    """Calls of this thread belong to a new coalescing manager now; what to give back to leave_coalesced."""

def leave_coalesced(previous: int) -> None: ...
def forget_group(address: int) -> None:
    """That process group is gone; 0: all are."""

def open_coalesced() -> None:
    """NCCL's group begins: calls of this thread are members from here on."""

def launch_coalesced(end: Callable, *args: Any, **kwargs: Any) -> Any:
    """Calls ``end(*args, **kwargs)``, which ends and launches the group, and returns what it does."""

def inject_disk_fault(after: int, error: int) -> None:
    """From now on, system call number ``after`` of the trace file and all later ones fail with errno ``error``."""

def inject_memory_use(share: float) -> None:
    """From now on stages take no memory sample and this share is in use; a negative one ends that."""

def spans_outstanding() -> int: ...
def cpu_memory_totals() -> tuple[int, int]: ...
