"""A build for another torch is refused before it is loaded, with both versions and the command that mends it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from wanhook import _native


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A source tree with no extension in it, and a process that has not loaded one."""
    folder = tmp_path / "wanhook"
    folder.mkdir()
    (tmp_path / "setup.py").touch()
    monkeypatch.setattr(_native, "_PACKAGE", folder)
    monkeypatch.setitem(sys.modules, "wanhook._C", None)  # an import of it fails
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.13.0+cpu"))
    return folder


def _write_note(package, **fields):
    (package / "_build.json").write_text(json.dumps(fields))


def test_mismatch_names_both_versions_and_the_rebuild_command(package):
    _write_note(package, torch="2.11.0+cu130", cuda="13.0")
    with pytest.raises(ImportError) as caught:
        _native.load()
    message = str(caught.value)
    assert "built for: torch 2.11.0+cu130" in message
    assert "installed: torch 2.13.0+cpu" in message
    assert f"cd {package.parent} && {sys.executable} setup.py build_ext --inplace" in message


def test_mismatch_is_seen_before_the_library_is_touched(package, monkeypatch):
    _write_note(package, torch="2.11.0+cu130", cuda="13.0")
    monkeypatch.setattr(_native.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(ImportError, match=r"2\.11\.0\+cu130"):
        _native.load()


def test_missing_extension_names_the_build_command(package):
    with pytest.raises(ImportError, match=r"not at all[\s\S]*installed: torch 2\.13\.0\+cpu[\s\S]*build_ext --inplace"):
        _native.load()


def test_library_that_does_not_load_says_why_and_what_to_do(package, monkeypatch):
    _write_note(package, torch="2.13.0+cpu", cuda=None)

    def undefined_symbol(name):
        raise OSError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(_native.importlib, "import_module", undefined_symbol)
    with pytest.raises(ImportError, match=r"undefined symbol[\s\S]*rebuild:"):
        _native.load()


def test_missing_torch_is_said_plainly(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="torch, which cannot be imported"):
        _native.load()


def test_fitting_extension_is_returned(package, monkeypatch):
    _write_note(package, torch="2.13.0+cpu", cuda=None)
    extension = ModuleType("wanhook._C")
    monkeypatch.setattr(_native.importlib, "import_module", lambda name: extension)
    assert _native.load() is extension


def test_loaded_extension_is_returned_unchecked(package, monkeypatch):
    extension = ModuleType("wanhook._C")
    monkeypatch.setitem(sys.modules, "wanhook._C", extension)
    assert _native._C is extension


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "not json"])
def test_unreadable_note_counts_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "_build.json").write_text(content)
    assert _native.read_build_info(tmp_path) is None


def test_installed_package_is_rebuilt_through_pip(tmp_path):
    command = _native.rebuild_command(tmp_path / "wanhook")
    assert command.startswith(f"{sys.executable} -m pip install --no-build-isolation --no-deps")
