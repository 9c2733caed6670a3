"""Programs of tests/gpu/programs in processes of their own: a crash or a hang there must not end the test run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANSWER = "ANSWER "
_SHOWN = 4000  # characters of a program's output in a failure
MADE_UP = "MADE_GPU_SHARED" in os.environ  # tests/made_gpu: kernels compute nothing, so results mean nothing


@dataclass(frozen=True)
class Finished:
    """How a program ended. ``at``: when, on CLOCK_MONOTONIC in seconds, to a few ms."""

    returncode: int
    output: str
    at: float

    @property
    def answer(self) -> dict:
        """What the program said with ``say``. Fails with its output when it ended badly or said nothing."""
        lines = [line for line in self.output.splitlines() if line.startswith(ANSWER)]
        assert self.returncode == 0, f"exit status {self.returncode}:\n{self.output[-_SHOWN:]}"
        assert lines, f"no answer:\n{self.output[-_SHOWN:]}"
        return json.loads(lines[-1].removeprefix(ANSWER))


class Program:
    """``python -m gpu.programs.NAME`` in a process group of its own; output and errors go to one file."""

    def __init__(self, name: str, *arguments, environment: dict[str, str] | None = None):
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the program
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"gpu.programs.{name}", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def finish(self, timeout: float) -> Finished:
        """Wait for the end. A program that outlives ``timeout`` seconds is killed, and the test fails."""
        try:
            returncode = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.output()[-_SHOWN:]}") from None
        return Finished(returncode, self.output(), time.monotonic())

    def wait_for_file(self, path: Path, timeout: float) -> None:
        """Until the program made that file. Fails when it ends first or takes longer."""
        deadline = time.monotonic() + timeout
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"never made {path.name}:\n{self.output()[-_SHOWN:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL for the program and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def running(*programs: Program) -> Iterator[None]:
    """Whatever happens in the block, none of the programs is left running."""
    try:
        yield
    finally:
        for program in programs:
            if program.process.poll() is None:
                program.kill()


def run_together(programs: list[Program], timeout: float) -> list[Finished]:
    """Wait for programs that were started together; ``timeout`` seconds for all of them."""
    deadline = time.monotonic() + timeout
    with running(*programs):
        return [program.finish(max(1.0, deadline - time.monotonic())) for program in programs]


def start_ranks(name: str, world_size: int, *arguments) -> list[Program]:
    """One program a rank, told who it is by RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE."""
    return [
        Program(name, *arguments, environment={
            "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
        })
        for rank in range(world_size)
    ]  # fmt: skip


def say(answer: dict) -> None:
    """The program's side: hand ``answer`` to the test. The last one counts."""
    print(ANSWER + json.dumps(answer), flush=True)
