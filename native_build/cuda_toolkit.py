"""Where the CUDA headers, libcudart and nccl.h are that fit the installed torch. No nvcc is needed.

Headers come from a CUDA toolkit of torch's CUDA major version (NVIDIA keeps the runtime API compatible within one),
and from the wheels that torch itself was installed with. What those wheels lack is in one or two others:

    python -m native_build.cuda_toolkit    prints their pip requirements, or nothing when all is there
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CONVENTIONAL_HOME = "/usr/local/cuda"
_SYSTEM_INCLUDE = Path("/usr/include")
_TARGETS = ("", "targets/x86_64-linux", "targets/sbsa-linux")
# nccl.h includes cuda_fp16.h, and that includes nv/target.
_HEADER_WHEELS = {
    "cuda_runtime_api.h": "nvidia-cuda-runtime",
    "crt/host_defines.h": "nvidia-cuda-crt",
    "nv/target": "nvidia-cuda-cccl",
}


class CudaHeadersNotFound(RuntimeError):
    """Headers for torch's CUDA version are missing; ``requirements`` are the pip requirements that bring them."""

    def __init__(self, message: str, requirements: Sequence[str]) -> None:
        super().__init__(message)
        self.requirements = tuple(requirements)


@dataclass(frozen=True)
class CudaFiles:
    """What a CUDA build of the extension needs, all found on this machine.

    ``include_dirs``: in search order, the compiler's own folders left out. ``libcudart``: the file to link, or None
    when only the linker's own search can find it. ``nccl``: nccl.h can be included.
    """

    include_dirs: tuple[Path, ...]
    libcudart: Path | None
    nccl: bool


def find_cuda_files(
    cuda_version: str, environ: Mapping[str, str] = os.environ, paths: Sequence[str] | None = None
) -> CudaFiles:
    """Files for ``cuda_version`` ("13.0", as in ``torch.version.cuda``). Import torch before: the libcudart that it
    has loaded is the one to link.

    ``WANHOOK_CUDA_HOME`` in ``environ`` names the toolkit to use; set but empty, it rules toolkits out. ``paths`` is
    where wheels are looked for, sys.path if None. Raises CudaHeadersNotFound.
    """
    major = int(cuda_version.split(".")[0])
    nccl_dirs, wheel_dirs = _wheel_include_dirs(sys.path if paths is None else paths, major)
    toolkit_dirs = _toolkit_include_dirs(cuda_version, environ)
    # nccl.h of torch's own NCCL wheel comes before a copy that someone put into the toolkit.
    folders = list(dict.fromkeys(nccl_dirs + toolkit_dirs + wheel_dirs))
    missing = [header for header in _HEADER_WHEELS if not _has_header(folders, header)]
    if missing:
        raise _not_found(cuda_version, missing)
    return CudaFiles(
        include_dirs=tuple(folder for folder in folders if folder != _SYSTEM_INCLUDE),
        libcudart=_loaded_library("libcudart.so") or _toolkit_library(toolkit_dirs),
        nccl=_has_header([*folders, _SYSTEM_INCLUDE], "nccl.h"),
    )


def _toolkit_include_dirs(cuda_version: str, environ: Mapping[str, str]) -> list[Path]:
    wanted = environ.get("WANHOOK_CUDA_HOME")
    if wanted == "":
        return []
    exact = tuple(int(part) for part in cuda_version.split(".")[:2])
    homes = [Path(wanted)] if wanted else _conventional_homes(environ)
    found = {folder: _runtime_version(folder) for home in homes for folder in _include_dirs_of(home)}
    fitting = [folder for folder, version in found.items() if version and version[0] == exact[0]]
    if wanted and not fitting:
        raise CudaHeadersNotFound(f"WANHOOK_CUDA_HOME={wanted} has no headers of CUDA {exact[0]}, torch's version", ())
    fitting.sort(key=lambda folder: found[folder] != exact)
    # From CUDA 13 on a toolkit keeps nv/target in a folder that only nvcc searches unasked.
    return [path for path in (fitting[0], fitting[0] / "cccl") if path.is_dir()] if fitting else []


def _conventional_homes(environ: Mapping[str, str]) -> list[Path]:
    nvcc = shutil.which("nvcc", path=environ.get("PATH", ""))
    beside_nvcc = str(Path(nvcc).resolve().parent.parent) if nvcc else None
    homes = [environ.get("CUDA_HOME"), environ.get("CUDA_PATH"), beside_nvcc, _CONVENTIONAL_HOME]
    return [Path(home) for home in homes if home]


def _include_dirs_of(home: Path) -> list[Path]:
    return [home / target / "include" for target in _TARGETS]


def _wheel_include_dirs(paths: Sequence[str], major: int) -> tuple[list[Path], list[Path]]:
    """Include folders of NVIDIA's wheels on ``paths``: NCCL's own, and the others that fit CUDA ``major``.

    From CUDA 13 on the wheels share nvidia/cu13; before, each has a folder of its own (nvidia/cuda_runtime, ...).
    """
    nccl, others = [], []
    for path in dict.fromkeys(paths):
        for folder in sorted(Path(path or ".").glob("nvidia/*/include")):
            shared = re.fullmatch(r"cu(\d+)", folder.parent.name)
            version = (int(shared[1]),) if shared else _runtime_version(folder)
            if folder.parent.name == "nccl":
                nccl.append(folder)
            elif version is None or version[0] == major:
                others.append(folder)
    return nccl, others


def _runtime_version(include_dir: Path) -> tuple[int, int] | None:
    """(13, 0) from CUDART_VERSION 13000; None when the folder has no runtime header."""
    header = include_dir / "cuda_runtime_api.h"
    if not header.is_file():
        return None
    match = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", header.read_text(errors="replace"))
    return (int(match[1]) // 1000, int(match[1]) % 1000 // 10) if match else None


def _has_header(folders: Iterable[Path], header: str) -> bool:
    return any((folder / header).is_file() for folder in folders)


def _loaded_library(prefix: str) -> Path | None:
    """The file of a shared library that this process has loaded; wheels ship it under a versioned name only."""
    maps = Path("/proc/self/maps")
    # Any file may be mapped, also one whose name is no text.
    lines = os.fsdecode(maps.read_bytes()).split("\n") if maps.is_file() else []
    files = {Path(line[line.index("/") :]) for line in lines if "/" in line}
    return next((file for file in sorted(files) if file.name.startswith(prefix) and file.is_file()), None)


def _toolkit_library(include_dirs: Sequence[Path]) -> Path | None:
    folders = [folder.parent / name for folder in include_dirs[:1] for name in ("lib64", "lib")]
    return next((file for folder in folders for file in sorted(folder.glob("libcudart.so*"))), None)


def _not_found(cuda_version: str, headers: Sequence[str]) -> CudaHeadersNotFound:
    major, minor = cuda_version.split(".")[:2]
    requirements = [f"{_wheel_name(header, int(major))}=={major}.{minor}.*" for header in headers]
    quoted = " ".join(f"'{requirement}'" for requirement in requirements)
    return CudaHeadersNotFound(
        f"torch was built for CUDA {cuda_version}, but {', '.join(headers)} of CUDA {major} could not be found.\n"
        f"Remedy: {sys.executable} -m pip install {quoted}\n"
        f"or set CUDA_HOME to a CUDA {major} toolkit. No nvcc is needed.",
        requirements,
    )


def _wheel_name(header: str, major: int) -> str:
    if major >= 13:
        return _HEADER_WHEELS[header]
    # Before CUDA 13 the crt headers had no wheel of their own; nvcc's wheel carried them.
    return f"{_HEADER_WHEELS[header].replace('nvidia-cuda-crt', 'nvidia-cuda-nvcc')}-cu{major}"


def main() -> None:
    """Prints the pip requirements that the installed torch's CUDA headers lack, one a line."""
    import torch

    try:
        if torch.version.cuda:
            find_cuda_files(torch.version.cuda)
    except CudaHeadersNotFound as error:
        print("\n".join(error.requirements))


if __name__ == "__main__":
    main()
