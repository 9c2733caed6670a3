"""Starting and stopping a recording, and the scopes in it."""

import atexit
import contextlib
import errno
import os
import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from wanhook import attach, metadata, run_directory, settings, spool, watermark
from wanhook._native import load as load_native
from wanhook.decorators import decorate
from wanhook.errors import AlreadyRecordingError, WanhookError
from wanhook.integrations import c10d, dynamo, fsdp, kernel_window

_C = load_native()

trace = _C.trace
mark = _C.mark
role = _C.role

# StateReason and SampleEdge of csrc/core/record.h.
_REASON_START, _REASON_STOP, _REASON_RESUME = 1, 2, 4
_EDGE_START, _EDGE_STOP = 3, 4

_LONGEST_EXIT = 2.0  # seconds that the last GPU spans may take at interpreter exit


@dataclass(frozen=True)
class _Current:
    """``path``: the file's place in the run directory; ``written``: the file that is mapped, elsewhere when spooled.
    ``settled``: all ranks are known to use the same name for this run. ``automatic``: begun by itself under
    WANHOOK=1."""

    path: Path
    written: Path
    run_id: str
    number: int
    explicit_directory: bool
    settled: bool
    automatic: bool


_current: _Current | None = None
_spooled: list[tuple[Path, Path]] = []  # local file, place in the run directory
_recordings = 0
_starting = threading.RLock()  # never waited for in a forked child, which returns before
_exiting = False  # the interpreter is


def start(out=None, *, level: str | None = None, max_mb: int | None = None) -> Path | None:
    """Starts a recording that runs until stop(), and returns the run directory.

    ``out``: the run directory, made if need be; default WANHOOK_OUT, else one under wanhook-runs/. ``level``: deepest
    scopes to record, "stage", "block" or "op". ``max_mb``: cap of this rank's file in MiB. Returns None, and does
    nothing, under WANHOOK=0 and in a forked child. Ends a recording that began by itself under WANHOOK=1. Raises
    WanhookError when another one runs already or the directory cannot be written, ValueError for a bad level or cap.
    """
    chosen = settings.from_environment()
    if level is not None:
        if level not in settings.LEVELS:
            raise ValueError(f"level must be one of {', '.join(settings.LEVELS)}, not {level!r}")
        chosen = replace(chosen, level=level)
    if max_mb is not None:
        if not settings.MIN_MAX_MB <= max_mb <= settings.MOST_MAX_MB:
            limits = f"from {settings.MIN_MAX_MB} to {settings.MOST_MAX_MB}"
            raise ValueError(f"max_mb must be {limits}, not {max_mb}")
        chosen = replace(chosen, max_mb=int(max_mb))
    if out is not None:
        chosen = replace(chosen, out=Path(out))
    return _start(chosen, "start")


def stop(wait: float = 0.0) -> None:
    """Ends the recording; does nothing when none runs.

    Does not wait for the GPU: spans that are still under way are added to the file in the background, for at most two
    seconds at interpreter exit. ``wait``: seconds to give them now, for scripts that read the file right after.
    """
    _stop(at_exit=False, wait=wait)


def pause() -> None:
    """Closes the gate: nothing is recorded until resume(), at the cost of one load a hook."""
    _C.pause()


def resume() -> None:
    """Opens the gate again; the allocator's state is recorded anew, as events in between are not known."""
    if _C.resume():
        _C.snapshot(_REASON_RESUME)


def cuda_came_up() -> None:
    """CUDA is being initialised inside a recording: its allocator's state is known from here on."""
    metadata.append(metadata.settings_at_start(metadata.describe_now(cuda=True)))
    _C.snapshot(_REASON_START)
    _C.sample(_EDGE_START)


def _start(chosen: settings.Settings, started_by: str) -> Path | None:
    if not chosen.enabled or _C.status()["forked_child"]:
        return None
    settings.complain_of_unknown()
    with _starting:
        current = _current  # another thread may end it at any time
        if current is not None and (current.automatic or not _C.status()["recording"]):
            _stop(at_exit=False, wait=0.0)  # one that nobody asked for in so many words, or that ended early by itself
        return _start_alone(chosen, started_by)


def _start_alone(chosen: settings.Settings, started_by: str) -> Path:
    global _current, _recordings
    attach.attach()
    settled = run_directory.can_agree()
    run_id = run_directory.agree(run_directory.run_name(), _recordings) if settled else run_directory.run_name()
    directory, kind = _make_directory(chosen.out or Path(run_directory.BASE) / run_id)
    path = run_directory.unused_path(directory, metadata.rank(), _recordings)
    if chosen.kernels == "nccl":
        kernel_window.warm_up()
    written = _open(path, chosen, spool.must_spool(kind))
    settled = settled or run_directory.is_one_launch_on_one_host()
    current = _Current(path, written, run_id, _recordings, chosen.out is not None, settled, started_by == "env")
    _current = current
    _recordings += 1
    try:
        _begin(current, chosen, kind, started_by)
    except BaseException:  # an interrupt, or torch's answer to a broken GPU
        _discard()
        raise
    return directory


def _begin(current: _Current, chosen: settings.Settings, kind: str, started_by: str) -> None:
    """What a file that has just been opened holds first."""
    watermark.watch(chosen.warn_at)
    _warn_about_room(current.written.parent, chosen.max_mb)
    name = current.path.parent.name
    meta = metadata.describe_start(chosen.level, current.run_id, name, current.number, started_by)
    meta |= {"verify": [chosen.verified]} if chosen.verified else {}
    spooled = current.written != current.path
    metadata.append({**meta, "file_system": {"type": kind, "spooled": spooled}, "warnings": _warnings()})
    _C.snapshot(_REASON_START)
    _C.sample(_EDGE_START)
    if chosen.kernels == "nccl":
        kernel_window.begin_recording(*chosen.kernels_window)


def _discard() -> None:
    """A recording that did not come to its begin leaves no file, and does not stand in the next one's way."""
    global _current
    current, _current = _current, None
    _C.stop(False, 0)
    if current is None:
        return
    with contextlib.suppress(OSError):
        current.path.unlink()
    if current.written != current.path:
        shutil.rmtree(current.written.parent, ignore_errors=True)


def _make_directory(directory: Path) -> tuple[Path, str]:
    """Makes the run directory; its absolute path and the type of its file system."""
    try:
        directory = directory.absolute()  # fails where the current directory is gone
        directory.mkdir(parents=True, exist_ok=True)
        return directory, spool.file_system(directory.resolve())
    except ValueError as error:  # a name that cannot be one
        raise _cannot_write(directory, OSError(errno.EINVAL, str(error))) from None
    except OSError as error:
        raise _cannot_write(directory, error) from None


def _open(path: Path, chosen: settings.Settings, spooled: bool) -> Path:
    """Starts the native recording and returns the file that is written."""
    if _C.status()["recording"]:
        remedy = "call wanhook.stop() first, or open scopes with wanhook.trace()"
        raise AlreadyRecordingError(f"a recording runs already; {remedy}")
    try:
        written = spool.place(path) if spooled else path
    except OSError as error:
        raise _cannot_write(path.parent, error) from None
    # As bytes: neither need be text.
    verified = chosen.verified.encode("utf-8", "replace")
    result = _C.start(os.fsencode(written), chosen.max_mb << 20, settings.LEVELS.index(chosen.level), verified)
    if result > 0:
        raise _cannot_write(written.parent, OSError(result, os.strerror(result)))
    return written


def _warn_about_room(directory: Path, max_mb: int) -> None:
    """Says so at the start when the disk cannot hold what this host's ranks may write."""
    try:
        free_mb = shutil.disk_usage(directory).free >> 20
    except OSError:
        return
    ranks = metadata.ranks_on_this_host()
    if free_mb < max_mb * ranks:
        settings.complain(
            f"{free_mb} MiB are free in {directory} and {ranks} rank(s) may write {max_mb} MiB each; a recording ends "
            "early when the disk is full. Set WANHOOK_MAX_MB, or record elsewhere with WANHOOK_OUT.",
            about=f"room in {directory}",
        )


def _warnings() -> list[str]:
    """What recording may disturb in this process; said once on stderr too."""
    if os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") != "1" or not attach.times_gpu():
        return []
    warning = (
        "CUDA_DEVICE_MAX_CONNECTIONS=1 puts all streams into one hardware queue, where the events that time scopes and "
        "collectives can keep work from overlapping. WANHOOK_VERIFY=1 measures whether they do."
    )
    settings.complain(warning)
    return [warning]


def _cannot_write(directory: Path, error: OSError) -> WanhookError:
    return WanhookError(
        f"cannot write a recording to {directory}: {error.strerror}. "
        "Pass another directory with out=... or WANHOOK_OUT, or make room there."
    )


def _stop(at_exit: bool, wait: float) -> None:
    global _current
    current, _current = _current, None
    if current is None or _C.status()["forked_child"]:
        return
    path = current.path
    # At exit a GPU that hangs must not hang us: asking for its memory could wait for it.
    usable = not at_exit or _gpu_answers()
    kernel_notes = kernel_window.end_recording(usable)
    if _C.status()["recording"]:
        run_id = current.run_id
        try:
            run_id = _end(current, at_exit, usable, kernel_notes)
        except Exception as error:  # torch's answer to a broken GPU: the file is whole without what it was asked for
            settings.complain(f"the end of the recording is not described: {type(error).__name__}: {error}")
        finally:
            _C.stop(at_exit, int(wait * 1e9))
        if run_id != current.run_id and not current.explicit_directory:
            path = _move(path, path.parent.parent / run_id)
    if current.written != current.path:
        _spooled.append((current.written, path))


def _end(current: _Current, at_exit: bool, usable: bool, kernel_notes: list[str]) -> str:
    """What a recording holds last; the run id that all ranks agree on. ``usable``: the GPU answers."""
    if usable:
        _C.snapshot(_REASON_STOP)
        _C.sample(_EDGE_STOP)
    final = metadata.describe_now()
    final["notes"] = attach.notes() + kernel_notes + _C.status()["notes"]
    run_id = current.run_id
    if not (at_exit or current.settled) and run_directory.can_agree():
        run_id = run_directory.agree(run_id, current.number)
        final["run"] = {"id": run_id}
    metadata.append(final)
    return run_id


def _gpu_answers() -> bool:
    """False when GPU spans are still pending after the half of what an exit may wait."""
    deadline = time.monotonic() + _LONGEST_EXIT / 2
    while _C.status()["pending_spans"] > 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _move(path: Path, directory: Path) -> Path:
    """To the directory that the ranks agreed on after this file was begun; the open mapping follows the file."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.rename(directory / path.name)
    except OSError:
        return path  # it can be read where it is; the report joins ranks by run id
    with contextlib.suppress(OSError):
        path.parent.rmdir()
    return directory / path.name


def _begin_outermost(out, verified: str | None) -> int | None:
    """A scope is entered while nothing is recorded. The number of the recording that was started, 0 for none, None:
    do not ask again. Raises only where the user named a directory. ``verified``: the scope's name where it says
    verify=True."""
    if _C.status()["forked_child"]:
        return None
    if _exiting and threading.current_thread() is not threading.main_thread():
        return None  # nobody would end it, and the interpreter ends threads wherever they are
    with _starting:
        if _current is not None:
            return 0  # another thread was first, or its recording ended early and it has not noticed yet
        try:
            chosen = settings.from_environment()
            chosen = chosen if out is None else replace(chosen, out=Path(out))
            started = _start(chosen, "env" if chosen.automatic else "trace")
            if started is None:
                return None
            if verified is not None:
                metadata.append({"verify": [verified]})
            # Under WANHOOK=1 the recording is the process's: stages that follow each other are one run.
            current = _current  # None: another thread has ended it already
            return 0 if chosen.automatic or current is None else current.number + 1
        except AlreadyRecordingError:
            return 0  # another thread is about to end it
        except BaseException as error:
            _discard()
            asked_for = out is not None and isinstance(error, WanhookError)
            if asked_for or not isinstance(error, Exception):
                raise
            settings.complain(f"{error} This run is not recorded.")
            return None


def _end_outermost(number: int) -> None:
    current = _current  # another thread may end it at any time
    if current is not None and current.number + 1 == number:
        _stop(at_exit=False, wait=0.0)


def _at_exit() -> None:
    global _exiting
    if _C.status()["forked_child"]:
        return
    _exiting = True
    _stop(at_exit=True, wait=0.0)
    _C.finish_all(int(_LONGEST_EXIT / 2 * 1e9))
    # Copying takes as long as the network does, so it waits for the end of the program.
    for local, path in _spooled:
        if not spool.bring_home(local, path):
            settings.complain(f"the recording stays in {local}: it could not be copied to {path.parent}")


_C.set_outermost_hooks(_begin_outermost, _end_outermost, decorate)
attach.attach()
c10d.install()
dynamo.install()
if "fsdp" in settings.from_environment().integrations:
    fsdp.install()
atexit.register(_at_exit)
