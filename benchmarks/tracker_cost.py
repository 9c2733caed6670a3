"""What torch itself takes to hand an allocator entry to a tracker: `python -m benchmarks.tracker_cost [--quick]`.

torch's own caching allocator over the made-up CUDA runtime of tests/native_oracle, without a GPU: an alloc and free of
1 MiB in C++, bare and with a tracker that does nothing. Below this no recorder that listens to these entries can come.
Needs a CUDA build of torch, its headers and a compiler.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from native_build.cuda_toolkit import find_cuda_files

from .rounds import figure, unpaired
from .unit_report import Table, arguments, finish, rounds_of

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = 3  # of a pair


def build(folder: Path) -> Path:
    """The program. CalledProcessError when it does not compile, with the compiler's words on stderr."""
    package = Path(torch.__file__).parent
    system = [package / "include", *find_cuda_files(torch.version.cuda).include_dirs, sysconfig.get_paths()["include"]]
    oracle, program = ROOT / "tests" / "native_oracle", folder / "tracker_loop"
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-rdynamic", f"-I{ROOT / 'csrc'}", f"-I{oracle}"]
    command += [part for path in system for part in ("-isystem", str(path))]
    command += [str(ROOT / "benchmarks" / "native" / "tracker_loop.cpp"), str(oracle / "fake_cuda.cpp")]
    command += [f"-L{package / 'lib'}", "-lc10", "-lc10_cuda", f"-Wl,-rpath,{package / 'lib'}"]
    subprocess.run([*command, "-Wl,--allow-shlib-undefined", "-o", str(program)], check=True)
    return program


def measure(program: Path, rounds: int) -> dict[str, np.ndarray]:
    """ns a pair by name, float64[rounds]."""
    done = subprocess.run([program, str(rounds)], capture_output=True, text=True, check=True)
    found = defaultdict(list)
    for line in done.stdout.splitlines():
        name, value = line.split()
        found[name].append(float(value))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    chosen = arguments(__doc__.splitlines()[0]).parse_args()
    if torch.version.cuda is None:
        return print("this torch has no CUDA: there is no caching allocator to measure")
    with tempfile.TemporaryDirectory(prefix="wanhook-bench-") as folder:
        found = measure(build(Path(folder)), rounds_of(chosen))
    table = Table("alloc + free of 1 MiB by torch's allocator over a made-up CUDA runtime, ns a pair")
    table.add("bare", figure(found["bare"]))
    table.add("with a tracker that does nothing", figure(found["tracked"]))
    cost = Table(f"an entry ({ENTRIES} a pair), ns")
    cost.add("torch's own part, over bare", unpaired(found["tracked"], found["bare"], ENTRIES))
    return finish([table, cost], chosen.out)


if __name__ == "__main__":
    main()
