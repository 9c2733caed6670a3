"""The extensions wanhook._C and wanhook._replay: sources and flags, and the command that builds them. Needs torch.

wanhook._replay belongs to the reading half: it is built without torch's headers, libraries and flags.

Files that end in ``_cuda.cpp`` are compiled where torch has CUDA, files that end in ``_host.cpp`` where it has not,
all others always. The C++ standard is torch's: BuildExtension adds the one that the installed version needs.
"""

import json
import os
import shutil
import sys
import sysconfig
import time
from pathlib import Path

import torch
from setuptools import Extension
from setuptools.command.build_ext import build_ext
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

from native_build.cuda_toolkit import find_cuda_files

_SOURCE_FOLDERS = ("core", "device", "hooks", "python")
_REPLAY = "wanhook._replay"
_COMPILE_FLAGS = ["-O2", "-g1", "-fvisibility=hidden", "-fno-plt", "-pthread", "-Wall", "-Wextra"]


def source_files(root: Path, cuda: bool) -> list[str]:
    """C++ sources of wanhook._C relative to ``root``, in a fixed order."""
    files = [file for folder in _SOURCE_FOLDERS for file in sorted((root / "csrc" / folder).glob("*.cpp"))]
    left_out = "_host.cpp" if cuda else "_cuda.cpp"
    kept = [file for file in [*files, root / "csrc" / "bindings.cpp"] if not file.name.endswith(left_out)]
    return [str(file.relative_to(root)) for file in kept]


def native_extensions(root: Path) -> list[Extension]:
    """All extension modules for the installed torch. Raises CudaHeadersNotFound."""
    return [_recording_extension(root), _replay_extension(root)]


def _replay_extension(root: Path) -> Extension:
    files = [str(file.relative_to(root)) for file in sorted((root / "csrc" / "replay").glob("*.cpp"))]
    headers = [str(file.relative_to(root)) for file in sorted((root / "csrc").glob("*/*.h"))]
    return Extension(
        _REPLAY,
        files,
        depends=headers,
        include_dirs=[str(root / "csrc"), _pybind11_headers()],
        extra_compile_args=["-std=c++17", *_COMPILE_FLAGS],
        language="c++",
    )


def _recording_extension(root: Path) -> Extension:
    cuda = torch.version.cuda is not None
    macros = [("WANHOOK_TORCH_BUILT", f'"{torch.__version__}"')]
    # -isystem wins over the -I that CppExtension adds for the same folder: our warnings are not about torch's headers.
    system_includes = [*include_paths(), sysconfig.get_paths()["include"]]
    libraries, objects = ["dl"], []  # a part of libc since glibc 2.34
    if cuda:
        files = find_cuda_files(torch.version.cuda)
        macros += [("WANHOOK_CUDA", "1")] + ([("USE_C10D_NCCL", "1")] if files.nccl else [])
        system_includes += map(str, files.include_dirs)
        libraries += ["c10_cuda", "torch_cuda"] + ([] if files.libcudart else ["cudart"])
        objects = [str(files.libcudart)] if files.libcudart else []
    return CppExtension(
        "wanhook._C",
        source_files(root, cuda),
        include_dirs=[str(root / "csrc")],
        define_macros=macros,
        extra_compile_args=_COMPILE_FLAGS + [flag for folder in system_includes for flag in ("-isystem", folder)],
        # No rpath: torch is always imported first, and has loaded its libraries, libcudart among them, by then.
        libraries=libraries,
        extra_objects=objects,
    )


def _pybind11_headers() -> str:
    """Those of the pybind11 package, or the copy among torch's headers where it is not installed."""
    try:
        import pybind11
    except ImportError:
        return str(Path(torch.__file__).parent / "include")
    return pybind11.get_include()


class BuildNative(BuildExtension):
    """build_ext that keeps one object folder a torch version, and says beside the extension what it was built for.

    wanhook/_build.json is how a mismatch is seen before the library is loaded: loading it could crash.
    """

    def __init__(self, *args, **kwargs) -> None:
        # The ninja wheel puts its program beside the interpreter, which need not be on PATH.
        if shutil.which("ninja") is None:
            os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        super().__init__(*args, **kwargs)

    def finalize_options(self) -> None:
        super().finalize_options()
        # pip gives an editable build a fresh temporary folder each time; ninja needs one that stays.
        self.build_temp = str(Path("build", f"objects-{sysconfig.get_config_var('SOABI')}-torch{torch.__version__}"))

    def build_extensions(self) -> None:
        # ninja's own default is two jobs more than cores; a torch source takes more than 1 GB to compile.
        os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
        started = time.time()
        everything = self.extensions
        for extension in everything:
            # Before BuildExtension puts its own compiler in place, which adds torch's flags to all it compiles.
            if extension.name == _REPLAY:
                build_ext.build_extension(self, extension)
        self.extensions = [extension for extension in everything if extension.name != _REPLAY]
        super().build_extensions()
        self.extensions = everything
        note = self._note()
        note.write_text(json.dumps({"torch": str(torch.__version__), "cuda": torch.version.cuda}) + "\n")
        # A source edited while the build ran must count as newer than the build.
        os.utime(note, (started, started))

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        package = self.get_finalized_command("build_py").get_package_dir("wanhook")
        self.copy_file(str(self._note()), str(Path(package, "_build.json")))

    def _note(self) -> Path:
        return Path(self.build_lib, "wanhook", "_build.json")
