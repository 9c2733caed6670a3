"""The doctor's answers in made-up surroundings."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from wanhook._native import BuildInfo
from wanhook.doctor import environment, hooks, places, software, wan
from wanhook.doctor.__main__ import main, render
from wanhook.doctor.line import FAIL, OK, WARN, Line
from wanhook.doctor.probe import ProbeFailed, _answer, probe
from wanhook.doctor.software import Software, installed_torch
from wanhook.settings import Settings

MIB = 1 << 20
FITTING = Software("2.11.0", "13.0", BuildInfo("2.11.0", "13.0"), True, ("wanhook_autoload:attach",))
FOUND = {
    "has_cuda": True,
    "device": {"type": "cuda", "name": "Made GPU"},
    "versions": {"torch": "2.11.0", "cuda": "13.0", "nccl": "2.28.9", "driver": "580.1"},
    "allocator": {"backend": "native", "settings": ""},
    "attached": {"cuda_memory": True, "cpu_memory": False},
    "collectives": 20,
    "fsdp": {"points": 11, "wrapped": 11},
    "notes": [],
    "scopes_read": 12,
    "events_read": 30,
    "collectives_read": 5,
    "damage": [],
    "costs": {"scope": 250.4, "allocator_event": 30.0, "collective": 700.0},
    "not_measured": {},
}
ON_CPU = {**FOUND, "device": {"type": "cpu"}, "attached": {"cuda_memory": False, "cpu_memory": True}}


def by_name(lines):
    """name -> line, of those that differ from one another."""
    return {line.name: line for line in lines}


# Software -------------------------------------------------------------------------------------------------------------


def test_all_is_well():
    lines = software.lines(FITTING, {})
    assert {line.status for line in lines} == {OK}
    assert not any(line.remedy for line in lines)


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"built": BuildInfo("2.8.0", "12.9")}, FAIL, "built for torch 2.8.0; there is torch 2.11.0, CUDA 13.0"),
        ({"extension": False, "built": None}, FAIL, "is not built"),
        ({"built": None}, WARN, "nothing says what it was built for"),
        ({"built": BuildInfo("2.11.0", None)}, WARN, "built without CUDA"),
    ],
)
def test_an_extension_that_does_not_fit(changes, status, word):
    line = by_name(software.lines(Software(**{**vars(FITTING), **changes}), {}))["extension"]
    assert (line.status, word in line.text) == (status, True)
    assert "build_ext" in line.remedy or "pip install" in line.remedy


def test_without_torch():
    line = by_name(software.lines(Software(None, None, None, True, ()), {}))["torch"]
    assert (line.status, line.remedy) == (FAIL, "install torch 2.8 or newer")


def test_what_wanhook_run_needs():
    def entry(software_here, **environ):
        return by_name(software.lines(software_here, environ))["entry point"]

    assert entry(FITTING).status == OK
    elsewhere = Software(**{**vars(FITTING), "entry_points": ("torch_npu:_autoload",)})
    assert entry(elsewhere).status == FAIL
    assert "pip install" in entry(elsewhere).remedy
    switched_off = entry(FITTING, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert (switched_off.status, switched_off.remedy) == (FAIL, "unset TORCH_DEVICE_BACKEND_AUTOLOAD")
    assert entry(FITTING, TORCH_DEVICE_BACKEND_AUTOLOAD="1").status == OK


def test_wanhook_0_is_told():
    assert by_name(software.lines(FITTING, {"WANHOOK": "0"}))["WANHOOK"].status == FAIL
    assert "WANHOOK" not in by_name(software.lines(FITTING, {"WANHOOK": "1"}))


def test_the_installed_torch_is_read_without_importing_it():
    code = (
        "import sys, wanhook.doctor.software as s; found = s.installed_torch(); assert 'torch' not in sys.modules;"
        "import torch; assert found == (torch.__version__, torch.version.cuda), found"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


def test_a_torch_that_is_not_there(monkeypatch):
    monkeypatch.setattr(software, "find_spec", lambda name: None)
    assert installed_torch() == (None, None)


# The trial recording --------------------------------------------------------------------------------------------------


def test_a_good_trial():
    lines = hooks.lines(FOUND, {})
    assert {line.status for line in lines} == {OK}
    found = by_name(lines)
    assert found["device"].text == "Made GPU; torch 2.11.0, CUDA 13.0, NCCL 2.28.9, driver 580.1"
    assert found["scope"].text.startswith("250 ns on the host")
    assert found["trial recording"].text == "read back 12 scopes, 5 collectives and 30 allocator events"


@pytest.mark.parametrize(
    ("changes", "environ", "name", "status", "word"),
    [
        ({"scopes_read": 0}, {}, "trial recording", FAIL, "no scope is in the file"),
        ({"damage": ["1 chunk of an unknown type"]}, {}, "trial recording", FAIL, "unknown type"),
        ({"allocator": {"backend": "cudaMallocAsync"}}, {}, "allocator", WARN, "cudaMallocAsync tells nobody"),
        ({"allocator": {"backend": "pluggable"}}, {}, "allocator", WARN, "pluggable tells nobody"),
        ({}, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "allocator", WARN, "switches the caching allocator off"),
        ({"attached": {"cuda_memory": False, "cpu_memory": False}}, {}, "allocator", WARN, "did not attach"),
        ({"collectives": 0}, {}, "collectives", WARN, "no torch.distributed"),
        ({"not_measured": {"collective": "DistBackendError: x"}}, {}, "collectives", WARN, "NCCL did not start"),
        ({"fsdp": {"points": 11, "wrapped": 9}}, {}, "FSDP", WARN, "9 of 11 points of FSDP1 and FSDP2"),
        ({}, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, "streams", WARN, "one queue"),
        ({"notes": ["Something is off."]}, {}, "note", WARN, "Something is off."),
        ({"costs": {}, "not_measured": {"scope": "OSError: x"}}, {}, "scope", WARN, "not measured: OSError: x"),
        ({"costs": {"collective": None}}, {}, "collective", WARN, "not measured: lost in noise"),
        ({"device": {"type": "cpu"}}, {}, "device", WARN, "no GPU is visible"),
    ],
)
def test_what_a_trial_lacks(changes, environ, name, status, word):
    line = by_name(hooks.lines({**FOUND, **changes}, environ))[name]
    assert (line.status, word in line.text) == (status, True), line


def test_on_the_cpu_queues_of_a_gpu_do_not_matter():
    found = by_name(hooks.lines(ON_CPU, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}))
    assert "streams" not in found
    assert (found["allocator"].status, found["allocator"].text) == (OK, "CPU tensors are recorded")


def run_apart(code):
    """In a process of its own: what records is not for this one."""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


def test_a_cost_that_is_lost_in_noise_is_not_0():
    run_apart(
        "from wanhook.doctor import costs\n"
        "lengths = {}\n"
        "state = ['recorded']\n"
        "costs.wanhook.pause = lambda: state.append('paused')\n"
        "costs.wanhook.resume = lambda: state.append('recorded')\n"
        "costs._timed = lambda run, device: lengths[state[-1]]\n"
        "for recorded, paused, cost in ((900, 500, 4.0), (501, 500, None), (500, 900, None)):\n"
        "    lengths.update(recorded=recorded, paused=paused)\n"
        "    found = costs._difference(lambda: None, costs.torch.device('cpu'), 100)\n"
        "    assert found == cost, (recorded, paused, found)\n"
    )


def process(returncode=0, stdout="", stderr=""):
    return subprocess.CompletedProcess([], returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (process(-11), "signal 11 ended it"),
        (process(1, "", "Traceback\n  File …\nImportError: undefined symbol"), "ImportError: undefined symbol"),
        (process(3), "exit status 3"),
        (process(0, "no json"), "it gave no answer"),
        (process(0, ""), "it gave no answer"),
        (process(0, "[1]"), "it gave no answer"),
    ],
)
def test_a_trial_that_dies_is_an_answer(ended, said):
    with pytest.raises(ProbeFailed, match="^" + said.replace("[", r"\[") + "$"):
        _answer(ended)
    assert hooks.failed(said).status == FAIL


def test_what_others_print_does_not_hide_the_answer():
    assert _answer(process(0, 'a library says hello\n{"costs": {}}\n')) == {"costs": {}}


def test_a_trial_that_hangs_is_given_up():
    with pytest.raises(ProbeFailed, match="not done after"):
        probe(timeout=0.01)


def test_a_real_trial_leaves_the_user_s_run_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"WANHOOK": "0", "WANHOOK_OUT": str(tmp_path / "mine"), "RANK": "3", "WORLD_SIZE": "8"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANHOOK")}
    found = probe(environ={**inherited, **environ, "CUDA_VISIBLE_DEVICES": ""})
    assert found["not_measured"] == {}
    assert set(found["costs"]) == {"scope", "allocator_event", "collective"}
    assert min(found["scopes_read"], found["events_read"], found["collectives_read"]) > 0
    assert found["attached"]["cpu_memory"] is True
    assert found["fsdp"]["wrapped"] == found["fsdp"]["points"] > 0
    assert list(tmp_path.iterdir()) == []
    assert FAIL not in {line.status for line in hooks.lines(found, {})}


def test_points_of_fsdp_that_this_torch_lacks_are_counted_and_named():
    run_apart(
        "import torch.distributed.fsdp._runtime_utils as there; del there._reduce_grad\n"
        "from wanhook import attach\nfrom wanhook.doctor import probe\n"
        "found = probe._fsdp_points()\n"
        "assert found['wrapped'] == found['points'] - 1, found\n"
        "assert any('_reduce_grad is not wrapped' in note for note in attach.notes()), attach.notes()\n"
    )


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_that_are_well_are_not_mentioned():
    assert environment.lines({"WANHOOK": "1", "WANHOOK_LEVEL": "block", "WANHOOK_INTEGRATIONS": "wan,fsdp"}) == []


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("WANHOOK_LEVEL", "deep", "'deep' is not one of stage, block, op; using op"),
        ("WANHOOK_MAX_MB", "-3", "is not a whole number"),
        ("WANHOOK_LEVELS", "op", "did you mean WANHOOK_LEVEL?"),
        ("WANHOOK_INTEGRATIONS", "wann", "using fsdp,wan"),
        ("WANHOOK_INTEGRATIONS", "fsdp", "leaves wan out: no stage of Wan will be recorded"),
        ("WANHOOK_INTEGRATIONS", "wan", "leaves fsdp out: FSDP's waits"),
    ],
)
def test_a_setting_that_is_wrong_or_leaves_something_out(variable, value, word):
    (line,) = environment.lines({variable: value})
    assert (line.name, line.status, word in line.text) == (variable, WARN, True), line


def test_without_integrations_both_are_named():
    assert [line.status for line in environment.lines({"WANHOOK_INTEGRATIONS": "none"})] == [WARN, WARN]


# Disk -----------------------------------------------------------------------------------------------------------------


def place(directory, free_mb=10_000, kind="ext4", ranks=1):
    found = places.lines(Settings(out=directory), ranks, lambda path: free_mb * MIB, lambda path: kind)
    return by_name(found)


def test_a_directory_that_is_not_there_yet_is_not_made(tmp_path):
    found = place(tmp_path / "a" / "b")
    assert (found["directory"].status, found["room"].status) == (OK, OK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free_mb", "ranks", "status"),
    [(2048, 1, OK), (2047, 1, WARN), (3, 1, FAIL), (2048, 2, WARN), (16384, 8, OK), (31, 8, FAIL)],
)
def test_room(tmp_path, free_mb, ranks, status):
    room = place(tmp_path, free_mb, ranks=ranks)["room"]
    assert (room.status, bool(room.remedy)) == (status, status != OK)


def test_a_network_disk_is_written_to_late(tmp_path):
    assert "copied when the program ends" in place(tmp_path, kind="nfs4")["directory"].text
    assert "copied" not in place(tmp_path)["directory"].text


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)
    found = place(tmp_path / "runs")
    assert found["directory"].status == FAIL
    assert "Permission denied" in found["directory"].text
    assert "WANHOOK_OUT" in found["directory"].remedy


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    assert place(tmp_path / "file")["directory"].status == FAIL
    assert place(tmp_path / "file" / "inside")["directory"].status == FAIL


def test_a_disk_that_does_not_answer(tmp_path):
    def fail(path):
        raise OSError(5, "Input/output error")

    found = by_name(places.lines(Settings(out=tmp_path), 1, fail, lambda path: "ext4"))
    assert found["directory"].status == WARN


# Wan ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of a table like the integration's."""

    module: str
    attribute: str
    scope: str = "denoise"
    generations: tuple[str, ...] = ("2.1", "2.2")
    loses: str = "the scope denoise"


PIPELINE = """
from tqdm import tqdm
from .modules.model import WanModel as Model
try:
    import flash_attn
except ImportError:
    flash_attn = None

class Base:
    def shared(self): ...

class WanT2V(Base):
    def __init__(self): ...
    async def generate(self): ...
    alias = generate

class Model2(Model): ...
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function: generation -> the directory of a made-up Wan, whose import would fail."""
    monkeypatch.delitem(sys.modules, "wan", raising=False)

    def make(generation="2.2", text=PIPELINE):
        package = tmp_path / "checkout" / "wan"
        (package / "distributed").mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('imported')")
        (package / "text2video.py").write_text(text)
        if generation == "2.2":
            (package / "distributed" / "ulysses.py").write_text("def f(): ...")
        return package.parent

    return make


def of(table, directory):
    return wan.lines(table, directory)


@pytest.mark.parametrize(
    "attribute",
    ["tqdm", "Model", "flash_attn", "WanT2V.__init__", "WanT2V.generate", "WanT2V.alias", "WanT2V.shared",
     "Model2.__call__", "Model.from_pretrained"],
)  # fmt: skip
def test_points_that_are_there(checkout, attribute):
    lines = of([Row("wan.text2video", attribute)], checkout())
    assert [(line.name, line.status) for line in lines] == [("wan", OK), ("points", OK)]
    assert lines[1].text == "1 of 1 points are there"


@pytest.mark.parametrize("attribute", ["gone", "Gone.generate", "WanT2V.gone", "Base.generate", "generate"])
def test_a_point_that_is_missing_is_named(checkout, attribute):
    good = Row("wan.text2video", "tqdm")
    lines = of([good, Row("wan.text2video", attribute)], checkout())
    assert [line.status for line in lines] == [OK, OK, WARN]
    assert lines[1].text == "1 of 2 points are there"
    assert lines[2].text == f"wan.text2video:{attribute} is not there: the scope denoise will be missing"


def test_the_generation_decides_which_points_are_looked_for(checkout):
    table = [Row("wan.text2video", "tqdm"), Row("wan.text2video", "only_in_1", generations=("2.1",))]
    directory = checkout("2.2")
    assert [line.text for line in of(table, directory)][1:] == ["1 of 1 points are there"]
    assert f"Wan2.2 in {directory / 'wan'}" == of(table, directory)[0].text


def test_the_first_generation(checkout):
    lines = of([Row("wan.text2video", "gone", generations=("2.2",))], checkout("2.1"))
    assert lines[0].text.startswith("Wan2.1 in ")


def test_modules_that_are_not_there_lose_nothing(checkout):
    rows = [Row("wan.text2video", "tqdm"), Row("wan.vace", "WanVace.generate"), Row("no_such_package.x", "f")]
    lines = of(rows, checkout())
    assert len(lines) == 2
    assert "does not have: wan.vace" in lines[1].text
    assert "not installed, and not needed by every run: no_such_package" in lines[1].text


def test_a_source_that_cannot_be_parsed(checkout):
    lines = of([Row("wan.text2video", "tqdm")], checkout(text="def ("))
    assert lines[1].status == WARN


def test_classes_in_a_circle_end(checkout):
    lines = of([Row("wan.text2video", "A.gone")], checkout(text="class A(B): ...\nclass B(A): ..."))
    assert [line.status for line in lines] == [OK, WARN, WARN]


def test_many_missing_points_are_counted(checkout):
    lines = of([Row("wan.text2video", f"gone{number}") for number in range(40)], checkout())
    assert lines[-1].text == "28 more are missing"


def test_no_wan(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "wan", raising=False)
    (line,) = of([], tmp_path)
    assert (line.status, "--wan" in line.remedy) == (WARN, True)
    assert f"{tmp_path}, which holds no package wan" in line.text
    assert "cannot be imported from here:" in of([], None)[0].text
    assert sys.path == []


def test_a_wanhook_without_a_table(checkout, monkeypatch):
    monkeypatch.setattr(wan, "TABLE", "wanhook.no_such_module")
    assert wan.points() == ()
    assert of(wan.points(), checkout())[1].status == WARN


# All together ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """A function: what is here -> exit status of the doctor."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, here=FITTING, found=FOUND):
        def answer():
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(Software, "here", classmethod(lambda cls: here))
        monkeypatch.setattr("wanhook.doctor.__main__.probe", answer)
        for variable in ("WANHOOK", "WANHOOK_OUT", "TORCH_DEVICE_BACKEND_AUTOLOAD", "CUDA_DEVICE_MAX_CONNECTIONS"):
            monkeypatch.delenv(variable, raising=False)
        return main(list(arguments))

    return run


def test_exit_status_tells_whether_recording_will_work(surroundings, capsys):
    assert surroundings() == 0
    assert "Recording will work." in capsys.readouterr().out
    assert surroundings(found=ProbeFailed("signal 11 ended it")) == 1
    told = capsys.readouterr().out
    assert "signal 11 ended it" in told
    assert "Recording will not work." in told


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_exit_status_where_nobody_reads(surroundings, monkeypatch, arguments):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where it was closed
    assert surroundings(*arguments) == 0
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert surroundings(*arguments) == 0
        assert surroundings(*arguments, found=ProbeFailed("signal 11 ended it")) == 1


def test_an_extension_for_another_torch_is_not_even_tried(surroundings, capsys):
    here = Software(**{**vars(FITTING), "built": BuildInfo("2.8.0", None)})
    assert surroundings(here=here, found=AssertionError("tried")) == 1
    assert "rebuild" not in capsys.readouterr().err


def test_only_wanhook_run_does_not_work(surroundings, capsys):
    assert surroundings(here=Software(**{**vars(FITTING), "entry_points": ()})) == 1
    assert "A program that calls wanhook itself is recorded" in capsys.readouterr().out


def test_a_bad_directory_fails(surroundings, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert surroundings("--out", str(tmp_path / "file")) == 1
    assert "FAIL" in capsys.readouterr().out


def test_json(surroundings, capsys):
    assert surroundings("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["works"]) == ("wanhook.doctor/1", True)
    assert told["costs_ns"]["scope"] == 250.4
    assert {line["status"] for line in told["lines"]} <= {OK, WARN}
    assert set(told["lines"][0]) == {"area", "name", "status", "text", "remedy"}


def test_wrong_settings_are_among_the_answers(surroundings, monkeypatch, capsys):
    monkeypatch.setenv("WANHOOK_LEVEL", "deep")
    monkeypatch.setenv("WANHOOK_INTEGRATIONS", "none")
    assert surroundings("--json") == 0
    said = capsys.readouterr()
    lines = [line for line in json.loads(said.out)["lines"] if line["area"] == "settings"]
    assert [line["name"] for line in lines] == ["WANHOOK_LEVEL", "WANHOOK_INTEGRATIONS", "WANHOOK_INTEGRATIONS"]
    assert {line["status"] for line in lines} == {WARN}
    assert said.err == ""
    assert surroundings() == 0
    assert "no stage of Wan will be recorded" in capsys.readouterr().out


def test_text_is_escaped():
    text = render([Line("a", "b", WARN, "red \x1b[31m", "do \x07")])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "1 warning above." in text
