"""What a machine lacks for a build is said in a sentence that names the remedy."""

import shutil
import sys

import pytest

from native_build import check_machine


@pytest.fixture
def complete_machine(monkeypatch):
    monkeypatch.setattr(check_machine, "_has", lambda module: True)
    monkeypatch.setattr(check_machine.os.path, "isfile", lambda path: True)
    monkeypatch.setattr(shutil, "which", lambda program: program)


def test_complete_machine_has_no_problem(complete_machine):
    assert check_machine.problems(["torch"], new_environment=True) == []


def test_python_without_ensurepip(complete_machine, monkeypatch):
    monkeypatch.setattr(check_machine, "_has", lambda module: module != "ensurepip")
    (problem,) = check_machine.problems([], new_environment=True)
    assert "apt-get install python3-venv" in problem
    assert "INSTALL=0" in problem
    assert check_machine.problems([], new_environment=False) == []


def test_old_python(complete_machine, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    (problem,) = check_machine.problems([], new_environment=True)
    assert "Python 3.9 is too old, 3.10 or newer" in problem


def test_missing_headers_compiler_and_modules(complete_machine, monkeypatch):
    monkeypatch.setattr(check_machine, "_has", lambda module: False)
    monkeypatch.setattr(check_machine.os.path, "isfile", lambda path: False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    headers, compiler, modules = check_machine.problems(["torch", "rich"], new_environment=False)
    assert "python3-dev" in headers
    assert "apt-get install g++" in compiler
    assert "torch, rich" in modules
