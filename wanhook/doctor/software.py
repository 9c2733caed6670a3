"""Versions, whether the extension fits torch, and what WANHOOK=1 needs. Imports neither torch nor the extension."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from wanhook import __version__
from wanhook._native import BuildInfo, read_build_info, rebuild_command
from wanhook.doctor.line import FAIL, OK, WARN, Line

AREA = "software"
ENTRY_POINT = "entry point"
_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALL = f"{sys.executable} -m pip install --no-build-isolation DIRECTORY, with the directory of wanhook's sources"


@dataclass(frozen=True)
class Software:
    """`torch` and `torch_cuda`: versions as text; None without torch (without CUDA). `built`: what the extension was
    compiled against, None where nothing says so. `entry_points`: values of the group torch.backends."""

    torch: str | None
    torch_cuda: str | None
    built: BuildInfo | None
    extension: bool
    entry_points: tuple[str, ...]
    python: str = platform.python_version()

    @classmethod
    def here(cls) -> Software:
        torch, cuda = installed_torch()
        points = tuple(point.value for point in entry_points(group="torch.backends"))
        extension = any(_PACKAGE.glob("_C.*.so"))
        return cls(torch, cuda, read_build_info(_PACKAGE), extension, points)


def installed_torch() -> tuple[str | None, str | None]:
    """torch.__version__ and torch.version.cuda of this interpreter, read as text: importing an installation that is
    broken could end this process."""
    try:
        spec = find_spec("torch")
        text = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
    except (OSError, ValueError, ImportError):
        return None, None
    version, cuda = (
        re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)", text, re.MULTILINE) for name in ("__version__", "cuda")
    )
    return version and version[1], cuda and cuda[1]


def lines(software: Software, environ: Mapping[str, str] = os.environ) -> list[Line]:
    """Of versions, the extension, the entry point and the switches."""
    return [
        Line(AREA, "wanhook", OK, f"{__version__}, Python {software.python}"),
        _extension(software),
        *_switches(environ),
        *_entry_point(software, environ),
    ]


def _extension(software: Software) -> Line:
    rebuild, built = rebuild_command(_PACKAGE), software.built
    if software.torch is None:
        return Line(AREA, "torch", FAIL, "cannot be found; wanhook records through it", "install torch 2.8 or newer")
    installed = f"torch {software.torch}" + (f", CUDA {software.torch_cuda}" if software.torch_cuda else "")
    if not software.extension:
        return Line(AREA, "extension", FAIL, f"is not built; there is {installed}", rebuild)
    if built is None:
        return Line(AREA, "extension", WARN, f"nothing says what it was built for; there is {installed}", rebuild)
    if built.torch != software.torch:
        return Line(AREA, "extension", FAIL, f"was built for torch {built.torch}; there is {installed}", rebuild)
    if software.torch_cuda and not built.cuda:
        text = f"was built without CUDA, and there is {installed}: no GPU times and no GPU memory"
        return Line(AREA, "extension", WARN, text, rebuild)
    return Line(AREA, "extension", OK, f"was built for {installed}, which is installed")


def _switches(environ: Mapping[str, str]) -> list[Line]:
    if environ.get("WANHOOK") == "0":
        return [Line(AREA, "WANHOOK", FAIL, "WANHOOK=0 switches all recording off", "unset WANHOOK")]
    return []


def _entry_point(software: Software, environ: Mapping[str, str]) -> list[Line]:
    """Only for programs that say nothing of wanhook themselves."""
    name = ENTRY_POINT
    without = "WANHOOK=1 and `wanhook run` will record nothing; wanhook.trace() in a program works"
    if not any(value.startswith("wanhook_autoload:") for value in software.entry_points):
        return [Line(AREA, name, FAIL, f"wanhook is not installed for {sys.executable}: {without}", _INSTALL)]
    if environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        text = f"TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps torch from loading it: {without}"
        return [Line(AREA, name, FAIL, text, "unset TORCH_DEVICE_BACKEND_AUTOLOAD")]
    return [Line(AREA, name, OK, "is installed: WANHOOK=1 and `wanhook run` attach to programs of this Python")]
