"""A build in the source tree is reused exactly as long as it fits."""

import json
import os
import sysconfig
from pathlib import Path

import pytest

from native_build import in_tree


@pytest.fixture
def tree(tmp_path) -> Path:
    """A source tree whose extensions were built for torch 2.13.0 after its last change."""
    for name in ("csrc/core/a.cpp", "csrc/core/a.h", "native_build/extension.py", "setup.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100, 100))
    (tmp_path / "wanhook").mkdir()
    for name in ("_C", "_replay"):
        (tmp_path / "wanhook" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    (tmp_path / "wanhook" / "_build.json").write_text(json.dumps({"torch": "2.13.0+cpu"}))
    os.utime(tmp_path / "wanhook" / "_build.json", (200, 200))
    return tmp_path


def test_current_build_is_kept(tree):
    assert in_tree.is_current(tree, "2.13.0+cpu")


@pytest.mark.parametrize("torch_version", ["2.13.0+cu130", "2.13.1+cpu", None])
def test_another_torch_needs_a_build(tree, torch_version):
    assert not in_tree.is_current(tree, torch_version)


@pytest.mark.parametrize("name", ["csrc/core/a.cpp", "csrc/core/a.h", "native_build/extension.py", "setup.py"])
def test_changed_source_needs_a_build(tree, name):
    os.utime(tree / name, (201, 201))
    assert not in_tree.is_current(tree, "2.13.0+cpu")


@pytest.mark.parametrize("name", ["_C", "_replay"])
def test_missing_library_needs_a_build(tree, name):
    (tree / "wanhook" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}").unlink()
    assert not in_tree.is_current(tree, "2.13.0+cpu")


def test_installed_torch_is_told_without_importing_it():
    torch = pytest.importorskip("torch")
    assert in_tree.installed_torch() == torch.__version__


def test_entry_points_are_described_anew_when_they_may_have_changed(tree):
    assert not in_tree.is_described(tree)
    (tree / "wanhook.egg-info").mkdir()
    (tree / "wanhook.egg-info" / "entry_points.txt").touch()
    assert in_tree.is_described(tree)
    os.utime(tree / "wanhook.egg-info" / "entry_points.txt", (99, 99))
    assert not in_tree.is_described(tree)
