"""The arrows between the layers point one way, and few files know what only few may know."""

from pathlib import Path

import pytest

import architecture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return dict(architecture.text_files(ROOT))


def _violations(check, files, under=(), suffixes=()):
    chosen = {
        path: text
        for path, text in files.items()
        if path.startswith(tuple(under) or "") and path.endswith(tuple(suffixes) or "")
    }
    assert chosen, f"no file to check under {under}"
    return [sentence for path, text in chosen.items() for sentence in check(path, text)]


def test_native_layers_include_only_what_stands_below(files):
    assert _violations(architecture.cpp_violations, files, ["csrc/"], [".h", ".cpp"]) == []


def test_python_parts_import_only_what_stands_below(files):
    assert _violations(architecture.python_violations, files, ["wanhook/"], [".py"]) == []


def test_analysis_neither_prints_nor_parses_arguments(files):
    assert _violations(architecture.analysis_violations, files, ["wanhook/analysis/"], [".py"]) == []


def test_one_file_a_language_knows_the_layout(files):
    assert _violations(architecture.layout_violations, files, ["csrc/", "wanhook/"], [".h", ".cpp", ".py"]) == []


def test_no_file_names_a_path_of_one_machine(files):
    assert _violations(architecture.machine_path_violations, files) == []


# The checks themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("csrc/core/a.cpp", "#include <torch/library.h>"),
        ("csrc/core/a.cpp", "#include <c10/core/Device.h>"),
        ("csrc/core/a.cpp", "#include <cuda_runtime_api.h>"),
        ("csrc/core/a.cpp", "  #  include <Python.h>"),
        ("csrc/core/a.h", '#include "device/event_pool.h"'),
        ("csrc/core/a.h", "#include <boost/container/flat_map.hpp>"),
        ("csrc/device/a.cpp", "#include <ATen/cuda/CUDAEvent.h>"),
        ("csrc/device/a.cpp", '#include "hooks/allocator_hook.h"'),
        ("csrc/hooks/a.cpp", "#include <torch/extension.h>"),
        ("csrc/hooks/a.cpp", "#include <pybind11/pybind11.h>"),
        ("csrc/hooks/a.cpp", '#include "python/scopes.h"'),
        ("csrc/replay/a.cpp", '#include "core/recorder.h"'),
        ("csrc/replay/a.cpp", "#include <pybind11/numpy.h>"),
        ("csrc/replay/bindings.cpp", "#include <c10/core/Device.h>"),
        ("csrc/bindings.cpp", '#include "replay/block_model.h"'),
        ("csrc/shared/a.cpp", ""),
    ],
)
def test_a_wrong_include_is_seen(path, text):
    assert len(architecture.cpp_violations(path, text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("csrc/core/a.cpp", '#include <atomic>\n#include <sys/mman.h>\n#include "core/record.h"'),
        ("csrc/device/a_cuda.cpp", '#include <cuda_runtime_api.h>\n#include "core/clock.h"'),
        ("csrc/hooks/a.cpp", '#include <c10/cuda/CUDACachingAllocator.h>\n#include "device/timeline.h"'),
        ("csrc/bindings.cpp", '#include <torch/extension.h>\n#include "hooks/a.h"\n#include "python/b.h"'),
        ("csrc/replay/a.cpp", '#include "replay/a.h"\n#include "core/record.h"\n#include <map>'),
        ("csrc/replay/bindings.cpp", "#include <pybind11/numpy.h>"),
    ],
)
def test_a_right_include_passes(path, text):
    assert architecture.cpp_violations(path, text) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("wanhook/tracefile/model.py", "import torch"),
        ("wanhook/tracefile/model.py", "def f():\n    from torch import nn"),
        ("wanhook/tracefile/model.py", "import importlib\nimportlib.import_module('torch')"),
        ("wanhook/tracefile/model.py", "from wanhook.analysis import intervals"),
        ("wanhook/tracefile/model.py", "from ..analysis import intervals"),
        ("wanhook/analysis/a.py", "from wanhook import _C"),
        ("wanhook/analysis/a.py", "from wanhook._native import load"),
        ("wanhook/analysis/a.py", "import wanhook"),
        ("wanhook/analysis/a.py", "import rich"),
        ("wanhook/analysis/a.py", "from wanhook.report import terminal"),
        ("wanhook/report/a.py", "from wanhook.recording import start"),
        ("wanhook/report/a.py", "from wanhook.exports import perfetto"),
        ("wanhook/exports/a.py", "import wanhook.scopes"),
        ("wanhook/recording.py", "from wanhook.tracefile.model import load"),
        ("wanhook/integrations/wan.py", "from wanhook.analysis import memory"),
    ],
)
def test_a_wrong_import_is_seen(path, text):
    assert len(architecture.python_violations(path, text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "wanhook/tracefile/model.py",
            "import numpy as np\nimport json\nfrom . import format\nfrom .reader import read",
        ),
        ("wanhook/analysis/a.py", "from wanhook.tracefile import format\nfrom wanhook import _replay"),
        ("wanhook/report/html.py", "import plotly\nfrom wanhook import __version__\nfrom ..analysis import ledger"),
        ("wanhook/recording.py", "import torch\nfrom wanhook._native import _C"),
        ("wanhook/demo/__main__.py", "from wanhook.report import build\nimport torch"),
    ],
)
def test_a_right_import_passes(path, text):
    assert architecture.python_violations(path, text) == []


def test_printing_analysis_is_seen():
    assert architecture.analysis_violations("wanhook/analysis/a.py", "import argparse\nprint(1)\n") == [
        "wanhook/analysis/a.py:2: analysis may not print",
        "wanhook/analysis/a.py:1: analysis may not parse arguments",
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("wanhook/tracefile/reader.py", "import struct"),
        ("wanhook/report/a.py", "dtype({'names': [], 'offsets': [0]})"),
        ("csrc/core/trace_file.h", "struct ChunkHeader {\n  int a;\n};"),
        ("csrc/hooks/a.cpp", "#pragma pack(1)"),
    ],
)
def test_a_second_place_with_layout_is_seen(path, text):
    assert len(architecture.layout_violations(path, text)) == 1


def test_a_machine_path_is_seen():
    planted = "/" + "home/somebody"
    assert architecture.machine_path_violations("docs/a.md", f"see {planted}/x") == [f"docs/a.md: names {planted}"]
    assert architecture.machine_path_violations("docs/a.md", "PYTHON=/path/to/python, /usr/local/cuda, a/work/b") == []
