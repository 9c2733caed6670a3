"""Requests of the stand-ins for Wan (tests/made_wan2) in processes of their own, and what their recordings hold."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from programs import PROGRAMS, ROOT, environment
from wanhook.tracefile.model import Run, load

MADE = ROOT / "tests" / "made_wan2"
STEPS, FORWARDS, LAYERS, T5_LAYERS = 4, 8, 3, 2
STEP = "request/denoise/denoise_step"
BLOCK = f"{STEP}/dit_forward/block"
SHARDED = ("--dit_fsdp", "--t5_fsdp")
# One request of each pipeline on two ranks, by root and task, so that each point of the integration has its turn:
# sharded or not, models left where they are or offloaded, either solver, videos and images.
REQUESTS = {
    ("wan21", "t2i-14B"): (*SHARDED, "--offload_model", "--requests", "2"),
    ("wan21", "i2v-14B"): ("--offload_model", "--requests", "2"),
    ("wan21", "flf2v-14B"): (*SHARDED, "--sample_solver", "dpm++"),
    ("wan21", "vace-14B"): SHARDED,
    ("wan22", "t2v-A14B"): (*SHARDED, "--offload_model", "--save_file", "video.png"),
    ("wan22", "i2v-A14B"): ("--offload_model",),
    ("wan22", "ti2v-5B"): SHARDED,
    ("wan22", "s2v-14B"): ("--offload_model",),
    ("wan22", "animate-14B"): SHARDED,
}


@dataclass
class Ran:
    returncode: int
    output: str
    errors: str
    directory: Path

    def lines(self) -> list[str]:
        """What Wan itself said, times and rates masked; two ranks' progress bars mix as they will."""
        told = (self.output + self.errors).splitlines()
        return sorted(re.sub(r"\d{4}-\d\d-\d\d [\d:,.]+", "TIME", line) for line in told if "INFO" in line)

    def result(self, name: str) -> bytes:
        return torch.load(self.directory / name).numpy().tobytes()

    def run(self) -> Run:
        return load(self.directory / "run")


def generate(root: str, directory: Path, *arguments: str, ranks: int = 2, record: bool = True, **changes: str) -> Ran:
    """A request of ROOT/generate.py, sharded where it has several ranks; ``changes`` are of its environment."""
    command = [str(MADE / root / "generate.py"), "--sample_steps", str(STEPS), *arguments]
    return launch(directory, *command, *(SHARDED if ranks > 1 else ()), ranks=ranks, record=record, **changes)


def marked(root: str, task: str, directory: Path) -> Ran:
    """The request of REQUESTS, with a mark at each point of the integration that it goes through."""
    command = [str(MADE / root / "generate.py"), "--sample_steps", str(STEPS), "--task", task]
    return launch(directory, str(PROGRAMS / "wan_points.py"), *command, *REQUESTS[root, task])


def launch(directory: Path, *command: str, ranks: int = 2, record: bool = True, **changes: str) -> Ran:
    """A Python program in ``directory``, which is made: under torchrun where it has several ranks, and under
    `wanhook run` where it is recorded."""
    directory.mkdir()
    command = [sys.executable, *command]
    if ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *torchrun, *command[1:], "--ulysses_size", str(ranks)]
    if record:
        command = [sys.executable, "-m", "wanhook", "run", "--out", "run", "--no-report", "--", *command]
    ended = subprocess.run(
        command, cwd=directory, env=environment(**changes), capture_output=True, text=True, timeout=240, check=False
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr, directory)


def counted(trace) -> dict[str, int]:
    """Scopes by path."""
    return dict(Counter(trace.paths[path] for path in trace.scopes["path"]))


def told(trace, path: str) -> list[dict]:
    """The arguments of the scopes with this path, in order."""
    return [trace.scope_args.get(int(scope["id"]), {}) for scope in trace.scopes if trace.paths[scope["path"]] == path]


def roles(trace) -> dict[str, int]:
    """Collectives by role."""
    return dict(Counter(trace.strings[role] for role in trace.collectives["role"]))


def gathered(trace) -> dict[str, int]:
    """FSDP's all_gathers by unit. Nothing else may have a unit."""
    units = Counter()
    for call in trace.collectives:
        op, role, unit = (trace.strings[call[name]] for name in ("op", "role", "unit"))
        assert bool(unit) == (role == "fsdp"), (op, role, unit)
        units[unit] += role == "fsdp" and "allgather" in op
    del units[""]
    return dict(units)


def points(trace) -> Counter[tuple[str, str]]:
    """How often each point was gone through in which scope: (point, the scope's name), of a run that is marked()."""
    paths = {int(scope["id"]): trace.paths[scope["path"]] for scope in trace.scopes}
    names = ((trace.strings[mark["name"]], paths.get(int(mark["scope"]), "")) for mark in trace.marks)
    return Counter((name.split()[1], path.rsplit("/", 1)[-1]) for name, path in names if name.startswith("point "))
