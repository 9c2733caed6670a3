"""The entry point that torch calls at the end of `import torch`, for people who asked for a recording and others."""

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from programs import ROOT, environment, run_program


def left(ended) -> dict:
    assert ended.returncode == 0, ended.errors
    return json.loads(ended.output.splitlines()[-1])


def test_torch_finds_the_entry_point():
    (point,) = [one for one in entry_points(group="torch.backends") if one.name == "wanhook"]
    assert point.value == "wanhook_autoload:attach"


@pytest.mark.parametrize("changes", [{}, {"WANHOOK": ""}, {"WANHOOK": "0"}])
def test_nobody_asked(tmp_path, changes):
    ended = run_program("autoload", tmp_path / "here", **changes)
    assert left(ended)["wanhook"] == ["wanhook_autoload"]
    assert ended.errors == ""
    assert list((tmp_path / "here").iterdir()) == []


def test_exactly_one_module_is_added():
    """Loaded in a process that has everything that torch has."""
    program = (
        "import sys, torch\n"
        "from importlib.metadata import EntryPoint\n"
        "sys.modules.pop('wanhook_autoload')\n"
        "before = set(sys.modules)\n"
        "EntryPoint('wanhook', 'wanhook_autoload:attach', 'torch.backends').load()()\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout == "['wanhook_autoload']\n"


def test_asked_for_and_nothing_traced(tmp_path):
    """As the torchrun agent: no rank, no scope. Nothing touches a GPU, no thread is started, no file is left."""
    bare = left(run_program("autoload", tmp_path / "bare"))
    ended = run_program("autoload", tmp_path / "here", WANHOOK="1")
    state = left(ended)
    assert "wanhook.integrations.wan" in state["wanhook"]
    assert "wanhook.integrations.wan.wrapping" not in state["wanhook"]
    assert not state["cuda"]
    assert state["threads"] == bare["threads"]
    assert ended.errors == ""
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("integrations", ["fsdp,wan", "none"])
def test_a_variable_that_means_nothing_is_said_where_something_is_recorded(tmp_path, integrations):
    changes = {"WANHOOK_LEVELS": "op", "WANHOOK_INTEGRATIONS": integrations}
    ended = run_program("autoload", tmp_path / "here", WANHOOK="1", **changes)
    assert ended.errors == "wanhook: WANHOOK_LEVELS is no setting and changes nothing; did you mean WANHOOK_LEVEL?\n"
    for switch in ({}, {"WANHOOK": "0"}):
        assert run_program("autoload", tmp_path / "not", **switch, **changes).errors == ""


@pytest.mark.parametrize("what", ["spawn", "loader"])
def test_children_that_inherit_a_rank_leave_no_file(tmp_path, what):
    directory = tmp_path / "here"
    ended = run_program("autoload", directory, what, WANHOOK="1", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert not left(ended)["cuda"]
    # Not "nothing at all": the thread of a loader's queue can outlast the interpreter, and then Python itself complains
    # of a leaked semaphore, recorded or not.
    assert ended.own_lines == []
    assert "Traceback" not in ended.errors
    assert [file.name for file in directory.iterdir()] == (["spawned-0"] if what == "spawn" else [])
    if what == "spawn":
        assert not json.loads((directory / "spawned-0").read_text())["cuda"]


# An editable install finds the real package wherever a made-up one lacks something.
WITHOUT_EDITABLE_INSTALLS = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "__editable__" not in getattr(each, "__module__", "")]
"""


def describe(directory: Path) -> None:
    """The entry point, as an installed package has it."""
    described = directory / "wanhook-0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: wanhook\nVersion: 0\n")
    (described / "entry_points.txt").write_text("[torch.backends]\nwanhook = wanhook_autoload:attach\n")


def broken(tmp_path: Path, text: str | None) -> subprocess.CompletedProcess:
    """`import torch` where the package wanhook is ``text``, or not there at all."""
    (tmp_path / "wanhook_autoload.py").write_text((ROOT / "wanhook_autoload.py").read_text())
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_EDITABLE_INSTALLS)
    describe(tmp_path)
    if text is not None:
        (tmp_path / "wanhook").mkdir()
        (tmp_path / "wanhook" / "__init__.py").write_text(text)
    changes = {**environment(WANHOOK="1"), "PYTHONPATH": str(tmp_path)}
    program = "import sys, torch; print(torch.__version__, sys.modules['wanhook_autoload'].__file__)"
    return subprocess.run(
        [sys.executable, "-c", program], env=changes, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line second line\n"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("raise RecursionError", "RecursionError:"),
        ("import wanhook_no_such_module", "ModuleNotFoundError: No module named 'wanhook_no_such_module'"),
        ("", "ImportError: cannot import name 'autostart' from 'wanhook' (unknown location)"),
        ("def f(:", "SyntaxError:"),
    ],
)
def test_broken_package_does_not_break_torch(tmp_path, text, said):
    ended = broken(tmp_path, text)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip().endswith(str(tmp_path / "wanhook_autoload.py"))
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("wanhook: this process is not recorded: " + said.split(" from ")[0])


def test_missing_package_does_not_break_torch(tmp_path):
    ended = broken(tmp_path, None)
    if "is not recorded" not in ended.stderr:
        pytest.skip("this interpreter has wanhook installed")
    assert ended.returncode == 0
    assert ended.stderr.startswith(
        "wanhook: this process is not recorded: ModuleNotFoundError: No module named 'wanhook'"
    )


def test_extension_for_another_torch_does_not_break_the_program(tmp_path):
    """Everything but the extension: the program runs as ever, and one line says why it is not recorded."""
    package = tmp_path / "tree" / "wanhook"
    package.mkdir(parents=True)
    for source in (ROOT / "wanhook").iterdir():
        if source.name not in ("_build.json", "__pycache__") and source.suffix != ".so":
            (package / source.name).symlink_to(source)
    (package / "_native.py").unlink()
    (package / "_native.py").write_text((ROOT / "wanhook" / "_native.py").read_text())
    (package / "_build.json").write_text('{"torch": "1.0.0", "cuda": null}')
    (tmp_path / "tree" / "wanhook_autoload.py").symlink_to(ROOT / "wanhook_autoload.py")
    (tmp_path / "tree" / "sitecustomize.py").write_text(WITHOUT_EDITABLE_INSTALLS)
    describe(tmp_path / "tree")
    made = ROOT / "tests" / "made_wan2" / "wan22" / "generate.py"
    changes = {**environment(WANHOOK="1"), "PYTHONPATH": str(tmp_path / "tree")}
    ended = subprocess.run(
        [sys.executable, made, "--sample_steps", "1"],
        env=changes,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    mine = [line for line in ended.stderr.splitlines() if "wanhook" in line]
    assert len(mine) == 1, mine
    assert "not recorded: ImportError: wanhook's extension wanhook._C cannot be used" in mine[0]
    assert "built for: torch 1.0.0" in mine[0]
    assert "setup.py build_ext" in mine[0] or "pip install" in mine[0]
    assert (tmp_path / "video.pt").is_file()
