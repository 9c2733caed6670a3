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


def compile_program(name: str, directory: Path) -> Path:
    """Builds tests/native/NAME.cpp with the core and the CPU twin of the device layer; the program's path. Objects are
    kept in ``directory``, one for each test session."""
    program = directory / name
    objects = [_compile(NATIVE / f"{name}.cpp", directory), *_core(directory)]
    _run(_compiler(), "-pthread", *objects, "-ldl", "-o", program)
    return program


def compile_library(name: str, library: Path, defined: tuple[str, ...] = ()) -> None:
    """Builds tests/native/fake/NAME.cpp as the shared library of that path, with these macros."""
    macros = [f"-D{macro}" for macro in defined]
    _run(_compiler(), "-std=c++17", "-shared", "-fPIC", *macros, NATIVE / "fake" / f"{name}.cpp", "-o", library)


@functools.cache
def _core(directory: Path) -> list[Path]:
    layers = [file for layer in ("core", "device") for file in sorted((ROOT / "csrc" / layer).glob("*.cpp"))]
    with ThreadPoolExecutor(max_workers=2) as pool:
        sources = [file for file in layers if not file.stem.endswith("_cuda")]
        return list(pool.map(lambda source: _compile(source, directory), sources))


def _compile(source: Path, directory: Path) -> Path:
    built = directory / f"{source.stem}.o"
    _run(_compiler(), "-std=c++17", "-O1", "-pthread", "-I", ROOT / "csrc", "-c", source, "-o", built)
    return built


def _run(*command) -> None:
    subprocess.run(list(map(str, command)), check=True, timeout=300)


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler: g++, or the one that CXX names")
    return compiler
