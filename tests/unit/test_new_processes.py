"""benchmarks/processes.py: jobs that answer, ranks that wait for each other, and those that never will."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import in_new_processes

ROOT = Path(__file__).resolve().parents[2]
CALLER = """
import sys
from benchmarks.processes import in_new_processes
from tests.unit.test_new_processes import say_and_hang

if __name__ == "__main__":
    in_new_processes(say_and_hang, sys.argv[1], patience=float(sys.argv[2]))
"""


def identity(rank: int, word: str) -> tuple:
    return rank, word, os.getpid()


def meet(rank: int, folder) -> int:
    """Returns once the other rank is here too."""
    (folder / str(rank)).touch()
    until = time.monotonic() + 60
    while not (folder / str(1 - rank)).exists() and time.monotonic() < until:
        time.sleep(0.01)
    return len(list(folder.iterdir()))


def fail(rank: int, which: int) -> None:
    if rank == which:
        raise ValueError("planted")
    time.sleep(600)


def die(rank: int) -> None:
    os._exit(3)


def hang(rank: int) -> None:
    time.sleep(600)


def say_and_hang(rank: int, file: str) -> None:
    said = Path(file)
    said.with_suffix(".new").write_text(str(os.getpid()))
    said.with_suffix(".new").rename(said)
    time.sleep(600)


def until(condition, seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(found)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_job_has_a_process_of_its_own():
    answers = [in_new_processes(identity, word) for word in ("one", "two")]
    assert [answer[:2] for answer in answers] == [(0, "one"), (0, "two")]
    assert len({os.getpid(), *(answer[2] for answer in answers)}) == 3


def test_ranks_run_at_the_same_time(tmp_path):
    assert in_new_processes(meet, tmp_path, ranks=2) == 2


@pytest.mark.parametrize(("job", "arguments", "said"), [(fail, (1,), "rank 1 ended"), (die, (), "rank 0 ended")])
def test_a_rank_that_ends_early_ends_the_others(job, arguments, said):
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=said):
        in_new_processes(job, *arguments, ranks=2 if job is fail else 1)
    assert time.monotonic() - begin < 300  # the other rank would have slept for ten minutes
    assert not multiprocessing.active_children()


def test_what_takes_too_long_is_ended():
    with pytest.raises(RuntimeError, match="1 of 1 ranks took too long"):
        in_new_processes(hang, patience=0.5)
    assert not multiprocessing.active_children()


def test_a_rank_whose_caller_was_killed_ends_with_its_patience(tmp_path):
    said, program = tmp_path / "pid", tmp_path / "caller.py"
    program.write_text(CALLER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    caller = subprocess.Popen([sys.executable, str(program), str(said), "10"], env=environment)
    try:
        assert until(said.exists)
        pid = int(said.read_text())
        assert is_alive(pid)
    finally:
        caller.kill()
        caller.wait()
    assert until(lambda: not is_alive(pid))
