"""Compiles the programs of tests/native for tests that run them; without torch, Python or a sanitizer."""

import functools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "tests" / "native"


ON_FAKE_CUDA = {"lent_events"}  # programs that get the CUDA half of the device layer, on tests/native/fake_cuda


def compile_program(name: str, directory: Path) -> Path:
    """Builds tests/native/NAME.cpp with the core and the device layer, by default its CPU twin; the program's path.
    Objects are kept in ``directory``, one for each test session."""
    program = directory / name
    if name in ON_FAKE_CUDA:
        # Beside the timers: what is asked of torch's streams has no fake.
        sources = [
            *_layer("core"),
            *(ROOT / "csrc/device" / f"{part}_cuda.cpp" for part in ("event_pool", "device_timer", "pair_cost")),
        ]
        objects = [_compile(source, directory, NATIVE / "fake_cuda") for source in (NATIVE / f"{name}.cpp", *sources)]
    else:
        objects = [_compile(NATIVE / f"{name}.cpp", directory), *_core(directory)]
    _run(_compiler(), "-pthread", *objects, "-ldl", "-o", program)
    return program


def compile_library(name: str, library: Path, defined: tuple[str, ...] = ()) -> None:
    """Builds tests/native/fake/NAME.cpp as the shared library of that path, with these macros."""
    macros = [f"-D{macro}" for macro in defined]
    _run(_compiler(), "-std=c++17", "-shared", "-fPIC", *macros, NATIVE / "fake" / f"{name}.cpp", "-o", library)


def _layer(name: str) -> list[Path]:
    return sorted((ROOT / "csrc" / name).glob("*.cpp"))


@functools.cache
def _core(directory: Path) -> list[Path]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        sources = [file for file in (*_layer("core"), *_layer("device")) if not file.stem.endswith("_cuda")]
        return list(pool.map(lambda source: _compile(source, directory), sources))


def _compile(source: Path, directory: Path, *includes: Path) -> Path:
    built = directory / f"{source.stem}.o"
    flags = [part for folder in (*includes, ROOT / "csrc") for part in ("-I", folder)]
    _run(_compiler(), "-std=c++17", "-O1", "-pthread", *flags, "-c", source, "-o", built)
    return built


def _run(*command) -> None:
    subprocess.run(list(map(str, command)), check=True, timeout=300)


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler: g++, or the one that CXX names")
    return compiler
