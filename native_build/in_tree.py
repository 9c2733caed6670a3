"""Builds the extensions in the source tree unless what is there is current: python -m native_build.in_tree [--install]

With --install the package is installed in editable mode too; without it, wanhook.egg-info beside the package is what
lets torch find the entry point where the tree is on PYTHONPATH. The compiler's output goes to build/build.log; only
warnings, and the end of the log when the build fails, are shown. Importing torch takes seconds, so a current build is
told without it.
"""

import json
import re
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BUILD = ["setup.py", "build_ext", "--inplace"]
_DESCRIBE = ["setup.py", "-q", "egg_info"]
_INSTALL = ["-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", "."]
_LOG_END_LINES = 40


def installed_torch() -> str | None:
    """``torch.__version__`` of this interpreter, read as text; None when there is no torch."""
    spec = find_spec("torch")
    version_file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if version_file is None or not version_file.is_file():
        return None
    match = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", version_file.read_text(), re.MULTILINE)
    return match[1] if match else None


def is_current(root: Path, torch_version: str | None) -> bool:
    """Whether the extensions in ``root`` are there, fit this Python and torch, and are newer than their sources."""
    note = root / "wanhook" / "_build.json"
    libraries = [root / "wanhook" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}" for name in ("_C", "_replay")]
    if not all(file.is_file() for file in (note, *libraries)) or torch_version is None:
        return False
    if json.loads(note.read_text()).get("torch") != torch_version:
        return False
    # The note carries the time at which its build began, so a source that was edited during the build counts as newer.
    return all(source.stat().st_mtime < note.stat().st_mtime for source in _sources(root))


def is_described(root: Path) -> bool:
    """Whether the entry points of pyproject.toml are in wanhook.egg-info too."""
    written, meant = root / "wanhook.egg-info" / "entry_points.txt", root / "pyproject.toml"
    return written.is_file() and written.stat().st_mtime >= meant.stat().st_mtime


def _sources(root: Path) -> list[Path]:
    found = [file for pattern in ("*.cpp", "*.h") for file in (root / "csrc").rglob(pattern)]
    return [*found, *(root / "native_build").glob("*.py"), root / "setup.py", root / "pyproject.toml"]


def _run(command: list[str], log: Path) -> int:
    with log.open("w") as output:
        return subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


def main() -> int:
    """Builds when that is needed; the exit status of the build."""
    install = "--install" in sys.argv[1:]
    torch_version = installed_torch()
    log = ROOT / "build" / "build.log"
    log.parent.mkdir(exist_ok=True)
    # A fresh environment needs the install even where the extension itself is current.
    if is_current(ROOT, torch_version) and (_is_installed() if install else is_described(ROOT)):
        return 0
    if is_current(ROOT, torch_version) and not install:
        return _run([sys.executable, *_DESCRIBE], log)
    print(f"building the extensions for torch {torch_version} (log: {log.relative_to(ROOT)})", flush=True)
    started = time.monotonic()
    status = _run([sys.executable, *(_INSTALL if install else [*_BUILD, *_DESCRIBE[1:]])], log)
    lines = log.read_text(errors="replace").splitlines()
    warnings = [line for line in lines if "warning:" in line and "csrc" in line]
    outcome = f"build {'finished' if status == 0 else 'failed'} in {time.monotonic() - started:.0f} s"
    print("\n".join([*(warnings if status == 0 else lines[-_LOG_END_LINES:]), outcome]))
    return status


def _is_installed() -> bool:
    # -E and another folder: the source tree itself must not answer.
    check = "import importlib.metadata as m; m.version('wanhook')"
    return (
        subprocess.run([sys.executable, "-E", "-c", check], cwd="/", capture_output=True, check=False).returncode == 0
    )


if __name__ == "__main__":
    sys.exit(main())
