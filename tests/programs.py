"""Runs the programs of tests/integration/programs in processes of their own: how they end is what is tested."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "integration" / "programs"


@dataclass(frozen=True)
class Ended:
    """How a program ended; ``directory``: where it ran, and its recordings by default."""

    returncode: int
    output: str
    errors: str
    directory: Path

    @property
    def own_lines(self) -> list[str]:
        """What wanhook said on stderr."""
        return [line for line in self.errors.splitlines() if line.startswith("wanhook:")]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without settings of wanhook, on the CPU."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANHOOK")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # From 3.12 on Python warns who forks with threads, and a recording has one.
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:This process:DeprecationWarning"}
    return {**kept, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **fixed, **changes}


def run_program(
    name: str,
    directory: Path,
    *arguments,
    limit: Callable[[], None] | None = None,
    timeout: float = 120,
    **changes: str,
) -> Ended:
    """Runs programs/NAME.py in ``directory``, which is made. ``limit`` is called in the new process before it begins;
    ``changes`` are variables of its environment."""
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, PROGRAMS / f"{name}.py", *map(str, arguments)],
        cwd=directory,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=limit,
    )
    return Ended(done.returncode, done.stdout, done.stderr, directory)


def run_two_at_a_time(run: Callable[[str], Ended], names: Iterable[str]) -> dict[str, Ended]:
    """run(name) of each, by name: most of each program's time is the import of torch."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))
