"""`wanhook run -- COMMAND` as a process of its own."""

import subprocess
import sys
from pathlib import Path

from programs import environment


def arguments(*command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, "-m", "wanhook", "run", *options, "--", *command]


def launch(
    directory: Path, *command: str, options: tuple[str, ...] = (), **changes: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments(*command, options=options), cwd=directory, env=environment(**changes), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def python(text: str) -> tuple[str, str, str]:
    return sys.executable, "-c", text
