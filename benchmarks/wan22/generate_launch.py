"""One launch of Wan's own generate.py, bare or under `wanhook run`, and what it left: status, output, latents.

torchrun keeps each rank's stdout and stderr in files of its own beside passing them on (`--tee`), so that the lines of
one rank can be compared in their order: on the console those of several ranks mix as they will.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from .sizes import SIZES

_ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
_GRACE = 45.0  # seconds: torchrun gives its ranks 30 of them
_PREFIX = re.compile(r"\[default\d+\]:")
_PROGRESS = re.compile(r"[^\r\n]*\d+%\|[^\r\n]*?\[[^\]\r\n]*\]")
# c10d's threads complain, or not, when another rank has left first.
_RACES = re.compile(r"TCPStore|HeartbeatMonitor|socket\.cpp|^frame #|^Exception raised from")
_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T_]?[\d:,.]*"), "TIME"),
    (re.compile(r"\b\d\d-\d\d \d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b[IWEF]\d{4} [\d:.]+( \d+)?"), "TIME"),
    (re.compile(r"\b0x[0-9a-f]+|\b(pid|fd|port)([ :=]+)\d+", re.IGNORECASE), "NUMBER"),
    (re.compile(r"(localhost\S*|127\.0\.0\.1\]?|::1\]?)[:, ]+\d{4,5}\b"), "ADDRESS"),
)


@dataclass
class Ended:
    """One launch. `status` is as subprocess has it, None when the launch outlasted its time and was ended."""

    status: int | None
    directory: Path
    seconds: float

    @property
    def recording(self) -> Path:
        return self.directory / "run"

    def latents(self) -> list[str]:
        """SHA-256 of the last step's latents, by rank."""
        return [file.read_text() for file in sorted(self.directory.glob("results/latents-*.txt"))]

    def reached(self) -> set[str]:
        """Ranks that came to the step in which a launch is broken."""
        return {file.name.rpartition("-")[2] for file in self.directory.glob("results/in-step-*")}

    def of_ranks(self, stream: str) -> dict[str, list[str]]:
        """Lines of "stdout", in order, or of "stderr", sorted as several threads write there; by rank, without progress
        bars, times masked."""
        files = sorted(self.directory.glob(f"logs/*/attempt_0/*/{stream}.log"))
        order = sorted if stream == "stderr" else list
        return {file.parent.name: order(_lines(file, self.directory)) for file in files}

    def last_words(self, lines: int = 25) -> str:
        """The end of stderr of every rank and of the launcher, as it is."""
        files = [*sorted(self.directory.glob("logs/*/attempt_0/*/stderr.log")), self.directory / "stderr"]
        ends = (file.read_text(errors="replace").splitlines()[-lines:] for file in files)
        return "\n".join(line for end in ends for line in end if line.strip())

    def of_console(self, stream: str) -> list[str]:
        """Lines of all ranks and of the launcher, sorted."""
        return sorted(_lines(self.directory / stream, self.directory))


def _lines(file: Path, directory: Path) -> list[str]:
    # torchrun may come upon half a line: its prefix then stands in the middle.
    text = _PREFIX.sub("", file.read_text(errors="replace")).replace("\r", "\n")
    text = _PROGRESS.sub("", text).replace(str(directory), "HERE")
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return [line.rstrip() for line in text.splitlines() if line.strip() and not _RACES.search(line)]


def launch(arguments: Namespace, task: str, name: str, *, record: bool, broken: str = "") -> Ended:
    """Runs generate.py in a fresh folder WORK/TASK/NAME; `broken` is one of `BREAKS`."""
    directory = arguments.work / task / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    command = _command(arguments, task)
    if record:
        command = [sys.executable, "-m", "wanhook", "run", "--out", "run", "--no-report", "--", *command]
    environment = _environment(arguments, WAN22_BREAK="pause" if broken in _INTERRUPTS else broken)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        terminal, terminal_name = _terminal(stack) if broken == "ctrl-c" else (-1, os.devnull)
        streams = {one: stack.enter_context((directory / one).open("wb")) for one in ("stdout", "stderr")}
        # A session leader that opens a terminal makes it its own: only the kernel sends ^C as a terminal does.
        command = ["sh", "-c", 'exec "$@" < "$0"', terminal_name, *command]
        process = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **streams)
        ended = Ended(None, directory, 0.0)
        if broken in _INTERRUPTS:
            _interrupt(process, ended, arguments, terminal)
        ended.status = _wait(process, arguments.longest - (time.monotonic() - began))
    ended.seconds = time.monotonic() - began
    return ended


def _command(arguments: Namespace, task: str) -> list[str]:
    size, ranks = SIZES[arguments.size], str(arguments.ranks)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    own = {
        "--task": task,
        "--ckpt_dir": str(arguments.work / task / "weights"),
        "--size": "{}*{}".format(*size.video),
        "--frame_num": str(size.frames),
        "--sample_steps": str(STEPS),
        "--base_seed": "7",
        "--prompt": "two cats",
        "--save_file": "video.mp4",
    }
    together = ["--ulysses_size", ranks, "--dit_fsdp", "--t5_fsdp"] if arguments.ranks > 1 else []
    return [
        *(sys.executable, *torchrun, "--tee", "3", "--log-dir", "logs", "-m", "benchmarks.wan22.unchanged"),
        *(word for pair in own.items() for word in pair),
        *together,
    ]


def has_terminals() -> bool:
    """Whether ^C can be tried on this machine."""
    try:
        for end in os.openpty():
            os.close(end)
    except OSError:
        return False
    return True


def _terminal(stack: contextlib.ExitStack) -> tuple[int, str]:
    """A new pseudo-terminal: the end that a user types into, and the name of the other."""
    master, slave = os.openpty()
    for end in (master, slave):
        stack.callback(os.close, end)
    return master, os.ttyname(slave)


_INTERRUPTS = ("ctrl-c", "interrupt")
BREAKS = {
    "exception": "a Python exception in rank 1",
    "kill": "SIGKILL of rank 1",
    "ctrl-c": "^C at the terminal",
    "interrupt": "SIGINT to the launcher",
}


def _interrupt(process: subprocess.Popen, launched: Ended, arguments: Namespace, terminal: int) -> None:
    """Sends SIGINT as soon as every rank pauses in its step; to the whole foreground where there is a terminal."""
    deadline = time.monotonic() + arguments.longest
    while len(launched.reached()) < arguments.ranks:
        if process.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(0.1)
    if terminal >= 0:
        os.write(terminal, b"\x03")
    else:
        process.send_signal(signal.SIGINT)


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its ranks, which are in sessions of their own
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return None


def _environment(arguments: Namespace, **changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANHOOK")}
    path = os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH")]))
    mine = {"WAN22_REPO": str(arguments.wan), "WAN22_SIZE": arguments.size, "WAN22_RESULTS": "results"}
    return {**kept, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **mine, **changes}


def prepare(arguments: Namespace, task: str) -> None:
    """Writes the task's weights unless they are there. Raises CalledProcessError."""
    folder = arguments.work / task / "weights"
    done = folder / f"made-{arguments.size}"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.wan22.unchanged", "--prepare", str(folder), task]
    subprocess.run(command, cwd=_ROOT, env=_environment(arguments), check=True, timeout=arguments.longest)
    done.touch()
