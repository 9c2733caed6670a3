"""Builds the extensions, wanhook._C against the installed torch; all else about the package is in pyproject.toml."""

import os
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))  # a PEP 517 build does not put it there

try:
    import torch  # noqa: F401
except ImportError as error:
    raise SystemExit(
        f"wanhook is built against the torch that is installed, and torch cannot be imported here ({error}). "
        "Install torch (2.8 or newer), then: python -m pip install --no-build-isolation ."
    ) from None

from native_build.cuda_toolkit import CudaHeadersNotFound  # noqa: E402
from native_build.extension import BuildNative, native_extensions  # noqa: E402

try:
    extensions = native_extensions(ROOT)
except CudaHeadersNotFound as error:
    raise SystemExit(f"wanhook: {error}") from None

setup(ext_modules=extensions, cmdclass={"build_ext": BuildNative})
