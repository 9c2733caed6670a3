"""Which directory the ranks of a run agree on."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from wanhook import run_directory

TORCHRUN = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for variable in TORCHRUN:
        monkeypatch.delenv(variable, raising=False)


def test_name_is_the_start_and_pid_of_this_process():
    name = run_directory.run_name()
    assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{os.getpid()}", name)
    assert run_directory.run_name() == name
    started = time.mktime(time.strptime(name.rpartition("-")[0], "%Y%m%d-%H%M%S")) - time.timezone
    assert abs(time.time() - started) < 24 * 3600


def test_ranks_of_torchrun_take_their_agents_name(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert run_directory.run_name().endswith(f"-{os.getppid()}")


def test_children_of_multiprocessing_take_their_parents_name(monkeypatch):
    parent = SimpleNamespace(pid=os.getppid())
    monkeypatch.setattr(run_directory.multiprocessing, "parent_process", lambda: parent)
    assert run_directory.run_name().endswith(f"-{os.getppid()}")


def test_start_of_a_process_is_unix_time():
    before = time.time()
    with subprocess.Popen(["sleep", "60"]) as process:
        started = run_directory._start_time(process.pid)
        process.kill()
    assert before - 2 <= started <= time.time() + 1


def test_start_of_a_process_that_is_gone_is_now():
    assert abs(run_directory._start_time(2**22 + 1) - time.time()) < 60


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, False),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, True),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, False),
        ({"TORCHELASTIC_RUN_ID": "x"}, False),
    ],
)
def test_one_launch_on_one_host(monkeypatch, variables, expected):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert run_directory.is_one_launch_on_one_host() is expected


def test_file_names():
    pid = os.getpid()
    assert run_directory.file_path(Path("run"), 3, 1) == Path(f"run/rank00003-{pid}-1.wanhook")
    assert run_directory.file_path(Path("run"), None, 0) == Path(f"run/rank-none-{pid}-0.wanhook")


def test_nobody_to_agree_with():
    assert not run_directory.can_agree()


def test_ranks_agree_on_the_first_name(monkeypatch):
    import torch.distributed as dist

    store = dist.HashStore()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    assert run_directory.agree("first", 0) == "first"
    assert run_directory.agree("second", 0) == "first"
    assert run_directory.agree("second", 1) == "second"


def test_store_that_does_not_answer_changes_nothing(monkeypatch):
    import torch.distributed as dist

    def gone():
        raise RuntimeError("the store is gone")

    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", gone)
    assert run_directory.agree("own", 0) == "own"


def test_start_time_of_a_process_whose_name_is_no_text():
    """All ranks must come to the same one."""
    name = os.fsdecode(b"odd ) \xff")
    program = f"open('/proc/self/comm', 'wb').write({os.fsencode(name)!r}); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        comm = Path(f"/proc/{process.pid}/comm")
        while comm.read_bytes().strip() != os.fsencode(name):
            time.sleep(0.01)
        first = run_directory._start_time(process.pid)
        time.sleep(0.05)
        assert run_directory._start_time(process.pid) == first
        process.communicate(b"\n", timeout=30)
