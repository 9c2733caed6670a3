"""Which CUDA headers a build takes, over made-up toolkits and wheels."""

from pathlib import Path

import pytest

from native_build.cuda_toolkit import CudaHeadersNotFound, find_cuda_files

_ALL_HEADERS = ("cuda_runtime_api.h", "crt/host_defines.h", "nv/target")


def _headers(folder: Path, version: int, names=_ALL_HEADERS) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#define CUDART_VERSION  {version}\n")
    return folder


def _found(cuda_version, environ=None, paths=()):
    # PATH is left out so that no nvcc of this machine is found.
    return find_cuda_files(cuda_version, {"WANHOOK_CUDA_HOME": "", **(environ or {})}, [str(path) for path in paths])


@pytest.fixture
def wheels(tmp_path) -> Path:
    """site-packages as torch 2.11 for CUDA 13.0 leaves it: runtime headers and NCCL, no crt, no nv/target."""
    _headers(tmp_path / "site/nvidia/cu13/include", 13000, ["cuda_runtime_api.h"])
    _headers(tmp_path / "site/nvidia/nccl/include", 0, ["nccl.h"])
    return tmp_path / "site"


def test_named_toolkit_comes_before_the_wheels(tmp_path, wheels):
    toolkit = _headers(tmp_path / "toolkit/include", 13000)
    files = _found("13.0", {"WANHOOK_CUDA_HOME": str(tmp_path / "toolkit")}, [wheels])
    assert files.include_dirs == (wheels / "nvidia/nccl/include", toolkit, wheels / "nvidia/cu13/include")
    assert files.nccl


def test_toolkit_keeps_nv_target_in_a_folder_of_its_own(tmp_path):
    toolkit = _headers(tmp_path / "toolkit/include", 13020, _ALL_HEADERS[:2])
    _headers(toolkit / "cccl", 0, ["nv/target"])
    files = _found("13.2", {"WANHOOK_CUDA_HOME": str(tmp_path / "toolkit")})
    assert files.include_dirs == (toolkit, toolkit / "cccl")


def test_toolkit_of_another_major_version_is_refused_by_name(tmp_path, wheels):
    _headers(tmp_path / "toolkit/include", 12080)
    with pytest.raises(CudaHeadersNotFound, match="WANHOOK_CUDA_HOME"):
        _found("13.0", {"WANHOOK_CUDA_HOME": str(tmp_path / "toolkit")}, [wheels])


def test_wheels_alone_lack_two_headers_and_the_message_names_their_wheels(wheels):
    with pytest.raises(CudaHeadersNotFound, match="pip install 'nvidia-cuda-crt==13") as caught:
        _found("13.0", paths=[wheels])
    assert caught.value.requirements == ("nvidia-cuda-crt==13.0.*", "nvidia-cuda-cccl==13.0.*")


def test_cuda_12_names_the_wheels_of_that_time(tmp_path):
    _headers(tmp_path / "nvidia/cuda_runtime/include", 12080, ["cuda_runtime_api.h"])
    with pytest.raises(CudaHeadersNotFound) as caught:
        _found("12.8", paths=[tmp_path])
    assert caught.value.requirements == ("nvidia-cuda-nvcc-cu12==12.8.*", "nvidia-cuda-cccl-cu12==12.8.*")


def test_completed_wheels_are_enough(wheels):
    _headers(wheels / "nvidia/cu13/include", 13000)
    assert _found("13.0", paths=[wheels]).include_dirs[1] == wheels / "nvidia/cu13/include"


def test_wheels_of_another_cuda_are_left_out(wheels):
    _headers(wheels / "nvidia/cu13/include", 13000)
    _headers(wheels / "nvidia/cuda_runtime/include", 12080)
    _headers(wheels / "nvidia/cu12/include", 12080)
    assert _found("13.0", paths=[wheels]).include_dirs[1:] == (wheels / "nvidia/cu13/include",)


def test_no_nccl_is_no_error(tmp_path):
    _headers(tmp_path / "nvidia/cu13/include", 13000)
    # A machine may have NCCL's header among the compiler's own.
    assert _found("13.0", paths=[tmp_path]).nccl == Path("/usr/include/nccl.h").is_file()
