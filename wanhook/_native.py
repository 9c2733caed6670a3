"""Loads wanhook._C, and says how to rebuild it when it does not fit the torch that is installed.

The extension is compiled against one torch version. Loading it under another one can crash, so the text file that the
build leaves beside it (_build.json) is compared first. Importing this module imports neither torch nor wanhook._C;
``from wanhook._native import _C`` does.
"""

import importlib
import importlib.metadata
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class BuildInfo:
    """What wanhook._C was compiled against: ``torch.__version__``, and ``torch.version.cuda`` or None."""

    torch: str
    cuda: str | None


def load() -> ModuleType:
    """Imports torch, then wanhook._C, and returns the latter; cheap when both are loaded.

    Raises ImportError that names both torch versions and the command that rebuilds the extension.
    """
    loaded = sys.modules.get("wanhook._C")
    if loaded is not None:
        return loaded
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"wanhook records through torch, which cannot be imported: {error}") from error
    installed = str(torch.__version__)
    built = read_build_info(_PACKAGE)
    if built is not None and built.torch != installed:
        raise ImportError(_message(built, installed, "a build for one torch version does not fit another"))
    try:
        return importlib.import_module("wanhook._C")
    except (ImportError, OSError) as error:
        raise ImportError(_message(built, installed, str(error))) from error


def __getattr__(name: str) -> ModuleType:
    if name == "_C":
        return load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def read_build_info(package: Path) -> BuildInfo | None:
    """The build's own note beside the extension in ``package``; None when there is none or it cannot be read."""
    try:
        fields = json.loads((package / "_build.json").read_text())
        return BuildInfo(torch=str(fields["torch"]), cuda=fields.get("cuda"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def rebuild_command(package: Path) -> str:
    """The shell command that builds the extension in ``package`` against the torch of this interpreter."""
    python = shlex.quote(sys.executable or "python3")
    if (package.parent / "setup.py").is_file():
        return f"cd {shlex.quote(str(package.parent))} && {python} setup.py build_ext --inplace"
    options = "--no-build-isolation --no-deps --no-cache-dir --force-reinstall"
    return f"{python} -m pip install {options} {shlex.quote(_source())}"


def _source() -> str:
    """Where pip installed wanhook from, as a path or URL; its bare name when that is not known."""
    try:
        recorded = importlib.metadata.distribution("wanhook").read_text("direct_url.json")
        return str(json.loads(recorded or "")["url"]).removeprefix("file://")
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return "wanhook"


def _message(built: BuildInfo | None, installed: str, reason: str) -> str:
    built_for = f"torch {built.torch}" if built else "an unknown torch version, or not at all"
    return (
        f"wanhook's extension wanhook._C cannot be used: {reason}\n"
        f"  built for: {built_for}\n"
        f"  installed: torch {installed}\n"
        f"  rebuild:   {rebuild_command(_PACKAGE)}"
    )
