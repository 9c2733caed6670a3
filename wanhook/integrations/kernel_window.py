"""NCCL's kernels during one scope, as CUPTI saw them through torch's profiler: WANHOOK_KERNELS=nccl.

A window is one scope of a recording: the N-th of its name. It is opened right before that scope and closed right after
it, so what that costs falls between scopes, and each launch inside costs a little more. The first use of CUPTI in a
process takes about a second: that is spent before the recording begins, or, where CUDA comes up later, before the
first scope of that name. Closing waits for the GPU, two seconds at most: what runs there may need another rank, which
waits in the same place.

The program's own profiler goes first: there can be one profiler at a time, and a second one is an exception. One that
was made ready (a schedule's warm-up) before the recording began cannot be seen. Nothing in here raises.
"""

import functools
import itertools
import re
import threading
import time

import orjson
import torch
from torch.autograd import DeviceType, profiler

from wanhook import settings
from wanhook._native import load as load_native

_C = load_native()

LONGEST_WAIT = 2.0  # seconds for the GPU to finish what the window holds
_NCCL_KERNEL = re.compile(r"nccl\w*Kernel\w*")
_numbers = itertools.count(1)
_window: "KernelWindow | None" = None
_warm = False


class CudaActivities:
    """One session of torch's profiler that asks CUPTI for kernels and their launches, and torch for nothing."""

    def begin(self) -> None:
        """Raises where the profiler cannot be had."""
        self._profile = profiler.profile(use_device="cuda", use_cpu=False, use_kineto=True)
        self._profile.__enter__()

    def end(self) -> tuple[list, bool]:
        """Kineto's events, and whether the GPU had finished. Raises on another thread than the one that began."""
        finished = _wait_for_gpu(LONGEST_WAIT)
        self._profile.use_device = None  # its own exit waits for the GPU without a limit
        self._profile.__exit__(None, None, None)
        return self._profile.kineto_results.events(), finished


class KernelWindow:
    """The window of one recording, from the recording's begin to its end. ``notes``: why it holds nothing."""

    def __init__(self, name: str, instance: int):
        self.notes: list[str] = []
        self._name, self._instance = name, instance
        self._seen = 0
        self._open = None  # the session
        self._number = 0  # of the scope, as the native side is told
        self._over = self._busy = False
        self._began = self._opening = 0

    def watch(self) -> None:
        """Begin to look for the scope, and for the program's own profilers."""
        _HostProfilers.install(self._program_profiles)
        _C.watch_scopes(self._name, self.entered, self.left)

    def entered(self) -> int:
        """A scope of the name is about to begin; not 0 when it is the window."""
        if self._over or self._open is not None:
            return 0
        self._seen += 1
        try:
            self._busy = True
            warm_up()
            return self._begin() if self._seen == self._instance else 0
        except Exception as error:
            self._call_off(f"torch's profiler could not be used: {_one_line(error)}")
            return 0
        finally:
            self._busy = False

    def left(self, number: int, scope: int) -> None:
        """The scope with that number ended."""
        if self._open is not None and number == self._number:
            self._close(scope)

    def end(self, usable: bool) -> None:
        """The recording ends. ``usable``: the GPU may be asked; else a session is left as it is."""
        if self._open is not None and usable:
            self._close(0)
        elif not self._over:
            what = f"it ended before scope {self._instance} named {self._name!r} had" if usable else "the GPU hangs"
            self.notes.append(f"kernels were asked for and not recorded: {what}")
        self._finish()

    def _begin(self) -> int:
        why = _why_not()
        if why:
            self._call_off(why)
            return 0
        began = time.time_ns()
        session = CudaActivities()
        session.begin()
        self._began = time.time_ns()
        self._opening = self._began - began
        self._open, self._number = session, next(_numbers)
        return self._number

    def _close(self, scope: int) -> None:
        session, self._open = self._open, None
        ended = time.time_ns()
        try:
            self._busy = True
            events, finished = session.end()
            rows, seen = nccl_kernels(events)
            written = _C.append_kernels(scope, rows)
            spent = self._opening, time.time_ns() - ended
            self._describe(scope, ended, finished, (seen, len(rows), written), spent)
            if not seen:
                self.notes.append("the profiler saw nothing on the GPU: does another tool (Nsight) hold CUPTI?")
        except Exception as error:
            self._call_off(f"torch's profiler could not be ended: {_one_line(error)}")
        finally:
            self._busy = False
            self._finish()

    def _describe(self, scope: int, ended: int, finished: bool, counts: tuple, spent: tuple) -> None:
        seen, nccl, written = counts
        about = {"name": self._name, "instance": self._instance, "scope": scope, "begin": self._began, "end": ended}
        about |= {"gpu_finished": finished, "activities": seen, "nccl": nccl, "written": written}
        about |= {"opening": spent[0], "closing": spent[1]}
        _C.append_meta(orjson.dumps({"kernel_window": about}))

    def _program_profiles(self) -> None:
        """A profiler of the program, or our own, is about to begin."""
        if self._busy or self._over:
            return
        if self._open is not None:
            self._close(0)  # what is there until now; the program's profiler follows
            self.notes.append("the kernel window ended early: the program began to profile by itself")
        else:
            self._call_off("the program profiles by itself")

    def _call_off(self, why: str) -> None:
        sentence = f"kernels are not recorded: {why}"
        self.notes.append(sentence)
        settings.complain(sentence)
        self._finish()

    def _finish(self) -> None:
        self._over = True
        _C.watch_no_scopes()
        _HostProfilers.uninstall()


class _HostProfilers:
    """Tells before a profiler of the program is made ready or started: torch keeps no list of them."""

    _PLACES = ((profiler.profile, "_prepare_trace"), (profiler, "_run_on_profiler_start"))
    _told = None
    _originals: tuple = ()

    @classmethod
    def install(cls, told) -> None:
        cls._told = told
        if cls._originals:
            return
        cls._originals = tuple(getattr(*place) for place in cls._PLACES)
        for place, original in zip(cls._PLACES, cls._originals, strict=True):
            setattr(*place, cls._first_tell(original))

    @classmethod
    def uninstall(cls) -> None:
        cls._told = None
        for place, original in zip(cls._PLACES, cls._originals, strict=False):
            setattr(*place, original)
        cls._originals = ()

    @classmethod
    def _first_tell(cls, original):
        @functools.wraps(original)
        def first_tell(*args, **kwargs):
            if cls._told is not None:
                cls._told()
            return original(*args, **kwargs)

        return first_tell


def warm_up() -> None:
    """Let CUPTI do what it does once a process, on a GPU that is in use already; else nothing. Never raises."""
    global _warm
    if _warm or _why_not():
        return
    _warm = True
    try:
        session = CudaActivities()
        session.begin()
        torch.cuda._sleep(1000)  # the first launch under CUPTI is slow too; this one allocates nothing
        session.end()
    except Exception as error:
        settings.complain(f"CUPTI could not be warmed up: {_one_line(error)}")


def begin_recording(name: str, instance: int) -> None:
    """A recording began in which the kernels of one scope are wanted."""
    global _window
    _window = KernelWindow(name, instance)
    _window.watch()


def end_recording(usable: bool) -> list[str]:
    """The recording is about to end; sentences about what it does not hold."""
    global _window
    window, _window = _window, None
    if window is None:
        return []
    window.end(usable)
    return window.notes


def nccl_kernels(events: list) -> tuple[list[tuple[str, int, int, int, int, int]], int]:
    """Rows for ``_C.append_kernels`` of NCCL's kernels among Kineto's events; and how many events were on a GPU."""
    launches, kernels, seen = {}, [], 0
    for event in events:
        where = event.device_type()
        if where == DeviceType.CPU:
            if "Launch" in event.name():
                launches[event.correlation_id()] = event.start_ns()
        elif where == DeviceType.CUDA:
            seen += 1
            if found := _NCCL_KERNEL.match(event.name()):
                kernels.append((found[0], event))
    rows = []
    for name, event in kernels:
        begin = event.start_ns()
        place = event.device_index(), event.device_resource_id()
        rows.append((name, *place, begin, begin + event.duration_ns(), launches.get(event.correlation_id(), 0)))
    return rows, seen


def _why_not() -> str:
    """Why a session cannot begin here and now; "" when it can. Makes no context."""
    if not (torch.cuda.is_initialized() and torch._C._cuda_hasPrimaryContext(torch.cuda.current_device())):
        return "no GPU is in use"
    if torch.cuda.is_current_stream_capturing():
        return "the scope begins inside the capture of a CUDA graph"
    if profiler._is_profiler_enabled or torch.autograd._profiler_enabled():
        return "a profiler is running already"
    return ""


def _wait_for_gpu(seconds: float) -> bool:
    """Until the current device has done all it was given; False when that takes longer, or it has failed."""
    device, done = torch.cuda.current_device(), threading.Event()

    def wait() -> None:
        try:
            torch.cuda.synchronize(device)
            done.set()
        except Exception:
            pass  # the program will see the same error

    waiter = threading.Thread(target=wait, name="wanhook-kernels", daemon=True)
    try:
        waiter.start()
    except RuntimeError:  # Python 3.12 starts no thread while the interpreter exits
        return False
    waiter.join(seconds)
    return done.is_set()


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
