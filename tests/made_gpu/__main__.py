"""Runs the GPU tests on made-up GPUs: `python -m made_gpu [--run COMMAND …] [arguments of pytest]`.

What a GPU alone can show is left out: tests marked `real_gpu`. What is left is everything on the host: which calls are
timed and how they are flagged, the allocator's events against torch's own counters, captures, several devices, FSDP,
endings. It is no substitute for a GPU, and finds before one is at hand what would fail there. Needs a CUDA build of
torch, its headers and a C++ compiler. ``--run`` runs a command on such GPUs instead of the tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from native_build.cuda_toolkit import CudaHeadersNotFound, find_cuda_files

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
DEVICES = 2


def build(folder: Path) -> Path:
    """The library to preload, made anew where a source is younger. RuntimeError when it does not compile."""
    library = folder / "libcuda.so.1"  # so that whoever loads the driver finds this one
    newest = max(file.stat().st_mtime for file in Path(__file__).parent.iterdir() if file.is_file())
    if library.is_file() and library.stat().st_mtime > newest:
        return library
    folder.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise RuntimeError("needs a C++ compiler: g++, or the one that CXX names")
    includes = [part for path in find_cuda_files(torch.version.cuda).include_dirs for part in ("-isystem", str(path))]

    def compiled(source: Path) -> Path:
        built = folder / f"{source.stem}.o"
        run(compiler, "-std=c++17", "-O2", "-fPIC", *includes, "-c", source, "-o", built)
        return built

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    run(compiler, "-shared", f"-Wl,-soname,{library.name}", *objects, "-ldl", "-pthread", "-o", library)
    return library


def run(*command) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")


def main(arguments: list[str]) -> int:
    if torch.version.cuda is None:
        raise SystemExit("made_gpu: this torch has no CUDA; `make made-gpu TORCH=2.11.0` takes one that has")
    try:
        library = build(ROOT / "build" / "made_gpu")
    except (CudaHeadersNotFound, RuntimeError) as error:
        raise SystemExit(f"made_gpu: {error}") from None
    command = [sys.executable, "-m", "pytest", "-m", "gpu and not real_gpu", str(ROOT / "tests" / "gpu"), *arguments]
    if arguments[:1] == ["--run"]:
        command = arguments[1:]
    with tempfile.TemporaryDirectory(prefix="made-gpu-", dir="/dev/shm") as shared:
        changes = {
            "LD_PRELOAD": str(library),
            "MADE_GPU_DEVICES": str(DEVICES),
            "MADE_GPU_SHARED": shared,
            "WANHOOK_REQUIRE_GPU": str(DEVICES),
        }
        return subprocess.run(command, env={**os.environ, **changes}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
