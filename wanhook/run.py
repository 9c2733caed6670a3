"""`wanhook run [--out DIR] [--level LEVEL] [--no-report] -- COMMAND ...`: records an unchanged program.

The command runs as it would without us: the same process group, stdin, stdout and stderr, signals passed on, and its
exit status ours. The report goes to stderr, so that stdout stays the command's own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

WIDTH = 100
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it
_PASSED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
    signal.SIGCONT,
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line of `wanhook run`, up to the command itself."""
    made = argparse.ArgumentParser(prog="wanhook run", description="Record an unchanged program and print its report.")
    made.add_argument("--out", type=Path, help="run directory; a new one under wanhook-runs/ unless given")
    made.add_argument("--level", choices=("stage", "block", "op"), help="deepest scopes to record (default: op)")
    made.add_argument("--max-mb", type=int, help="cap of each rank's file in MiB")
    made.add_argument("--no-report", action="store_true", help="print no report at the end")
    made.add_argument("command", nargs=argparse.REMAINDER, help="-- and the program with its arguments")
    return made


def main(arguments: list[str]) -> int:
    """Runs the command; its exit status. A command that a signal ended ends this process by the same signal."""
    options = parser().parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser().error("give the command to record behind --")
    if not is_installed():
        _say(
            "nothing will be recorded: torch finds wanhook by its installed entry point, and it is not installed for "
            f"{sys.executable}. Remedy: {sys.executable} -m pip install --no-build-isolation ."
        )
    directory = (options.out or new_directory()).absolute()
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _say(f"cannot make the run directory {directory}: {error.strerror}. Pass another one with --out.")
        return NOT_EXECUTABLE
    status = run(command, {**os.environ, **_settings(options, directory)})
    if not options.no_report:
        report(directory)
    if made:
        with contextlib.suppress(OSError):
            directory.rmdir()  # only where nothing was recorded
    return leave(status)


def is_installed() -> bool:
    """Whether torch will find us when a program of this interpreter imports it."""
    return any(point.value.startswith("wanhook_autoload:") for point in entry_points(group="torch.backends"))


def new_directory() -> Path:
    """A name under wanhook-runs/ that no other launch uses."""
    return Path("wanhook-runs") / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"


def _settings(options: argparse.Namespace, directory: Path) -> dict[str, str]:
    chosen = {"WANHOOK": "1", "WANHOOK_OUT": str(directory)}
    if options.level:
        chosen["WANHOOK_LEVEL"] = options.level
    if options.max_mb:
        chosen["WANHOOK_MAX_MB"] = str(options.max_mb)
    return chosen


def run(command: list[str], environment: dict[str, str]) -> int:
    """Starts the command, passes signals on until it ends, and returns its status as subprocess does."""
    with _blocked((*_PASSED_ON, signal.SIGCHLD)) as before:
        try:
            # The child must not inherit what this process blocks.
            child = subprocess.Popen(
                command, env=environment, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before)
            )
        except OSError as error:
            _say(f"cannot run {command[0]}: {error.strerror}")
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        while child.poll() is None:
            received = signal.sigwaitinfo((*_PASSED_ON, signal.SIGCHLD))
            # What the terminal sends goes to the whole process group, the command included; only what somebody sent to
            # this process alone has a sender.
            if received.si_signo != signal.SIGCHLD and received.si_pid not in (0, child.pid):
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(received.si_signo)
        return child.returncode


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
    """Prints the report of what was recorded to stderr, or that nothing was. Never raises."""
    try:
        from wanhook.report.build import build
        from wanhook.report.terminal import render
        from wanhook.tracefile.model import load

        if not any(directory.glob("*.wanhook")):
            _say("nothing was recorded: the command opened no scope of Wan's stages, and none of its own")
            return
        text = render(build(load(directory)), width=WIDTH, colour=False, show_all=False)
        sys.stderr.write(text.encode(sys.stderr.encoding or "utf-8", "backslashreplace").decode())
        _say(f"python -m wanhook.report {directory} prints this report again")
    except Exception as error:
        _say(f"the recording is in {directory}, but it cannot be reported on: {type(error).__name__}: {error}")


def leave(status: int) -> int:
    """The exit status for a command that ended with `status`; does not return where a signal ended it."""
    if status >= 0:
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
    return 128 - status


def _say(line: str) -> None:
    print(f"wanhook: {line}", file=sys.stderr, flush=True)
