"""A trial recording: `python -m wanhook.doctor.probe DIRECTORY` prints what came of it as JSON.

It has a process of its own, because an extension that does not fit can crash it and a broken NCCL can hang it; and it
may make a context on the GPU, which the doctor itself has no need of.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 120  # seconds; most of it for an `import torch` from a cold network disk
# What would make the trial a part of the user's own run, or change what it records.
_NOT_PASSED_ON = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NOT_PASSED_ON_PREFIXES = ("WANHOOK", "TORCHELASTIC_")


class ProbeFailed(Exception):
    """The trial did not come to its end; the message is the last that was heard of it."""


def probe(timeout: float = TIMEOUT, environ: dict[str, str] | os._Environ[str] = os.environ) -> dict:
    """What main() printed. Raises ProbeFailed."""
    kept = {key: value for key, value in environ.items() if key not in _NOT_PASSED_ON}
    kept = {key: value for key, value in kept.items() if not key.startswith(_NOT_PASSED_ON_PREFIXES)}
    # The child must find this very wanhook, wherever it is run from.
    root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory(prefix="wanhook-doctor-") as directory:
        command = [sys.executable, "-m", "wanhook.doctor.probe", directory]
        try:
            done = subprocess.run(
                command, env=kept, cwd=directory, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise ProbeFailed(f"it was not done after {timeout:.0f} s") from None
        except OSError as error:
            raise ProbeFailed(f"{sys.executable} cannot be run: {error.strerror}") from error
    return _answer(done)


def _answer(done: subprocess.CompletedProcess) -> dict:
    if done.returncode < 0:
        raise ProbeFailed(f"signal {-done.returncode} ended it")
    said = done.stderr.strip().splitlines()
    if done.returncode > 0:
        raise ProbeFailed(said[-1] if said else f"exit status {done.returncode}")
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = None
    if not isinstance(found, dict):
        raise ProbeFailed("it gave no answer")
    return found


def main(directory: Path) -> dict:
    """Records, measures and reads back; facts and figures (ns) by name."""
    import torch

    import wanhook
    from wanhook import attach, metadata
    from wanhook._native import load as load_native
    from wanhook.doctor import costs

    native = load_native()
    wanhook.start(directory / "run", max_mb=64)
    try:
        # A box without a GPU gets no context, and so no driver's answer about it.
        device = torch.device("cuda" if attach.times_gpu() else "cpu")
        if device.type == "cuda":
            torch.cuda.init()
        with wanhook.trace("doctor"):
            figures, reasons = costs.measure(device)
        status, facts = native.status(), metadata.describe_now(cuda=device.type == "cuda")
    finally:
        wanhook.stop(wait=1.0)
    sharded = _fsdp_points()  # before the notes: what is missing is said there
    read = list(wanhook.load(directory / "run"))
    return {
        "has_cuda": native.has_cuda,
        "device": facts["device"],
        "versions": facts["versions"],
        "allocator": facts["allocator"],
        "attached": {name: status[name] for name in ("cuda_memory", "cpu_memory")},
        "collectives": len(native.attach_collectives()) if torch.distributed.is_available() else 0,
        "fsdp": sharded,
        "notes": attach.notes() + status["notes"],
        "scopes_read": sum(len(trace.scopes) for trace in read),
        "events_read": sum(len(trace.allocator_events) for trace in read),
        "collectives_read": sum(len(trace.collectives) for trace in read),
        "damage": [line for trace in read for line in trace.health.damage],
        "costs": figures,
        "not_measured": reasons,
    }


def _fsdp_points() -> dict[str, int]:
    """How many points the integration with FSDP has, and how many of them are wrapped once FSDP is imported."""
    import torch

    if not torch.distributed.is_available():
        return {"points": 0, "wrapped": 0}
    from wanhook.integrations import fsdp

    fsdp.install()  # done already by the recorder, unless it chose otherwise
    for module in {point.module for point in fsdp._POINTS}:
        with contextlib.suppress(ImportError):  # its points stay unwrapped
            importlib.import_module(module)
    return {"points": len(fsdp._POINTS), "wrapped": len(fsdp._wrapped)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
