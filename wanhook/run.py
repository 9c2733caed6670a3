"""`wanhook run [--out DIR] [--level LEVEL] [--no-report] -- COMMAND ...`: records an unchanged program.

The command runs as it would without us: the same process group, stdin, stdout and stderr, signals passed on, and its
exit status ours. The report goes to stderr, so that stdout stays the command's own.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from wanhook import settings

WIDTH = 100
_RECORDINGS = "*.wanhook"
_SENT_BY_A_PROCESS = 0  # SI_USER; SI_QUEUE and SI_TKILL are below, what the kernel sends is above
_LONGEST_WAIT = 1.0  # seconds until the command is looked at even if no signal came
_PR_SET_PDEATHSIG = 1
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it
_PASSED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
    signal.SIGCONT,
)  # fmt: skip
_ENDS_THE_REPORT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ONLY_THE_COMMANDS = (signal.SIGUSR1, signal.SIGUSR2)


def parser() -> argparse.ArgumentParser:
    """The command line of `wanhook run`, up to the command itself."""
    made = argparse.ArgumentParser(
        prog="wanhook run",
        usage="wanhook run [-h] [--out DIR] [--level LEVEL] [--max-mb MIB] [--no-report] -- COMMAND ...",
        description="Record an unchanged program and print its report.",
    )
    about = "run directory; WANHOOK_OUT or a new one under wanhook-runs/ unless given"
    made.add_argument("--out", type=Path, metavar="DIR", help=about)
    about = f"deepest scopes to record: {', '.join(settings.LEVELS)} (default: WANHOOK_LEVEL, else op)"
    made.add_argument("--level", choices=settings.LEVELS, metavar="LEVEL", help=about)
    about = f"cap of each rank's file in MiB (default: WANHOOK_MAX_MB, else {settings.DEFAULT_MAX_MB})"
    made.add_argument("--max-mb", type=_max_mb, metavar="MIB", help=about)
    made.add_argument("--no-report", action="store_true", help="print no report at the end")
    about = "-- and the program with its arguments"
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help=about)
    return made


def main(arguments: list[str]) -> int:
    """Runs the command; its exit status. A command that a signal ended ends this process by the same signal."""
    options = parser().parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser().error("give the command to record behind --")
    for line in obstacles():
        _say(line)
    directory, made = options.out or settings.from_environment().out or new_directory(), []
    try:
        directory = directory.absolute()  # fails where the current directory is gone
        made = _missing_parts(directory)
        directory.mkdir(parents=True, exist_ok=True)
        before = set(directory.glob(_RECORDINGS))
    except OSError as error:
        _remove_if_empty(made)
        _say(f"cannot make the run directory {directory}: {error.strerror}. Pass another one with --out.")
        return NOT_EXECUTABLE
    try:
        status = run(command, {**os.environ, **_settings(options, directory)})
    except CannotRun as error:
        _say(f"cannot run {command[0]}: {error}")
        status = error.status
    else:
        conclude(directory, before, options.no_report)
    _remove_if_empty(made)
    return leave(status)


def _remove_if_empty(made: list[Path]) -> None:
    """What was made for a recording that is not there."""
    for part in made:
        with contextlib.suppress(OSError):
            part.rmdir()


def conclude(directory: Path, before: set[Path], no_report: bool) -> None:
    """Says what came of the command. Whatever happens here, the command's exit status is still to become ours: a
    signal ends this alone, with a line."""
    try:
        with _interruption.possible():
            if set(directory.glob(_RECORDINGS)) == before:
                _say(
                    "nothing was recorded: the command ran none of Wan's stages and opened no scope of its own; "
                    "`wanhook doctor` says what would be recorded"
                )
            elif not no_report:
                report(directory)
    except Interrupted as interrupted:
        if _stderr_takes_a_line():
            _say(f"{interrupted} ended the report; python -m wanhook.report {directory} prints it")
    except OSError as error:
        _say(f"what was recorded cannot be looked at: {error}")


def _max_mb(value: str) -> int:
    usable = settings.usable_max_mb(value)
    if usable is None:
        limits = f"from {settings.MIN_MAX_MB} to {settings.MOST_MAX_MB}"
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number {limits}")
    return usable


def obstacles() -> list[str]:
    """Sentences on why torch will not find us in a program of this interpreter, remedies included."""
    found = []
    if _entry_point() is None:
        found.append(
            "nothing will be recorded: torch finds wanhook by its entry point, and it is not installed for "
            f"{sys.executable}. Remedy: {sys.executable} -m pip install --no-build-isolation {_source()}"
        )
    if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        found.append(
            "nothing will be recorded: TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps torch from loading entry points. "
            "Remedy: unset it"
        )
    return found


def _entry_point() -> EntryPoint | None:
    points = entry_points(group="torch.backends")
    return next((point for point in points if point.value.startswith("wanhook_autoload:")), None)


def _source() -> Path | str:
    root = Path(__file__).resolve().parents[1]
    return root if (root / "setup.py").is_file() else "wanhook"


def _missing_parts(directory: Path) -> list[Path]:
    """The directory and its parents that are not there yet, innermost first."""
    return [part for part in (directory, *directory.parents) if not part.exists()]


def new_directory() -> Path:
    """A name under wanhook-runs/ that no other launch uses."""
    return Path("wanhook-runs") / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"


def _settings(options: argparse.Namespace, directory: Path) -> dict[str, str]:
    chosen = {"WANHOOK": "1", "WANHOOK_OUT": str(directory)}
    if options.level:
        chosen["WANHOOK_LEVEL"] = options.level
    if options.max_mb is not None:
        chosen["WANHOOK_MAX_MB"] = str(options.max_mb)
    if (tree := _source()) != "wanhook":
        # Last, so that the tree's own folders stand in nobody's way. An installed package is found before it.
        path = os.environ.get("PYTHONPATH", "")
        chosen["PYTHONPATH"] = f"{path}{os.pathsep}{tree}" if path else str(tree)
    return chosen


class CannotRun(Exception):
    """The command did not start; `status` is the exit status that shells have for that."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def run(command: list[str], environment: dict[str, str]) -> int:
    """Starts the command, passes signals on until it ends, and returns its status as subprocess does. Raises
    CannotRun."""
    # One that is ignored, as under some parents, would never come.
    sigchld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with _blocked((*_PASSED_ON, signal.SIGCHLD)) as before:
        try:
            child = _start(command, environment, sigchld, before)
        except OSError as error:
            raise CannotRun(error) from error
        while child.poll() is None:
            received = signal.sigtimedwait((*_PASSED_ON, signal.SIGCHLD), _LONGEST_WAIT)
            # What the terminal sends comes from the kernel, and to the whole process group, the command included.
            if received is not None and received.si_signo != signal.SIGCHLD and received.si_code <= _SENT_BY_A_PROCESS:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(received.si_signo)
        _interruption.take_over()  # as long as they are blocked, so that there is no moment in which one kills us
        return child.returncode


def _start(command: list[str], environment: dict[str, str], sigchld: object, mask: set) -> subprocess.Popen:
    """The command with the files, signals and signal mask that it would have without us. Raises OSError."""
    us, prctl = os.getpid(), _prctl()

    def become_the_command() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the one signal that cannot be passed on
            if os.getppid() != us:
                os.kill(os.getpid(), signal.SIGKILL)
        if sigchld == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, sigchld)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def start(words: list[str]) -> subprocess.Popen:
        # Files that were opened for the command stay open in it; ours close themselves.
        return subprocess.Popen(words, env=environment, close_fds=False, preexec_fn=become_the_command)

    try:
        return start(command)
    except OSError as error:
        script = shutil.which(command[0], path=environment.get("PATH"))
        if error.errno != errno.ENOEXEC or script is None:
            raise
        return start(["/bin/sh", script, *command[1:]])  # a script without #!, as shells and execvp() run it


def _prctl() -> Callable | None:
    try:
        import ctypes

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # a Python or a system without
        return None


class Interrupted(BaseException):
    """A signal has ended the report; the text is its name. No Exception: nothing that makes the report may keep it."""


class _Interruption:
    """Signals once the command has ended: one of them raises Interrupted while that is possible, and else does
    nothing."""

    def __init__(self) -> None:
        self._possible = False
        self._received: str | None = None

    def take_over(self) -> None:
        """From now on the signals end nothing but the report. What was ignored stays ignored."""
        for number in (*_ENDS_THE_REPORT, *_ONLY_THE_COMMANDS):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive if number in _ENDS_THE_REPORT else signal.SIG_IGN)

    @contextlib.contextmanager
    def possible(self) -> Iterator[None]:
        self._possible = True
        try:
            if self._received:  # before it was possible
                self._raise()
            yield
        finally:
            self._possible = False

    def _receive(self, number: int, _frame: object) -> None:
        self._received = signal.Signals(number).name
        if self._possible:
            self._raise()

    def _raise(self) -> None:
        self._possible = False  # a second one could meet the line that is said about the first
        raise Interrupted(self._received)


_interruption = _Interruption()


@contextlib.contextmanager
def _blocked(signals: tuple[int, ...]) -> Iterator[set]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield before
    finally:
        # What came in the meantime was for the command, which has ended.
        while set(signals) & signal.sigpending():
            signal.sigwaitinfo(set(signals) & signal.sigpending())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def report(directory: Path) -> None:
    """Prints the report of what was recorded to stderr. Never raises."""
    try:
        from wanhook.report.build import build
        from wanhook.report.inference_record import leave_records
        from wanhook.report.terminal import render
        from wanhook.tracefile.model import load

        run = load(directory)
        text = render(build(run), width=WIDTH, colour=False, show_all=False)
        _write(text)
        leave_records(run)
        _say(f"python -m wanhook.report {directory} prints this report again")
    except Exception as error:
        _say(f"the recording is in {directory}, but it cannot be reported on: {type(error).__name__}: {error}")


def leave(status: int) -> int:
    """The exit status for a command that ended with `status`; does not return where a signal ended it."""
    if status >= 0:
        return status
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # one core is enough
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    return 128 - status


def _say(line: str) -> None:
    _write(f"wanhook: {line}\n")


def _stderr_takes_a_line() -> bool:
    """False where its reader has stopped reading: to wait for him is what the signal has ended."""
    try:
        return bool(select.select([], [sys.stderr], [], _LONGEST_WAIT)[1])
    except (OSError, ValueError, TypeError):
        return True  # and _write() sees what is the matter


def _write(text: str) -> None:
    """To stderr. Never raises: its reader may have left, and where the command has none, we have none."""
    if sys.stderr is None:  # closed; print() would take stdout, which is the command's
        return
    try:
        encoding = sys.stderr.encoding or "utf-8"
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stderr.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            # What could not be written would fail once more at exit, and change the exit status.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
