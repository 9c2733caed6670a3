"""Where there is no room, or no right, to write: the program gets its result and its status, and one line says why."""

import json
import os
import resource
import subprocess

import pytest

import wanhook
from programs import run_program
from recorded import marks, only_trace, paths

STATUS = 5  # of the program, if nothing comes between
COMPUTED = f"computed {2 * sum(range(20_000))}\n"
CALLS = 72  # more than a recording of 16 MiB makes
TO_BEGIN = 3 + 4  # create, the header's page, the mapping, and four chunks
CHUNKS_NEEDED = 16 + 1


def check_program(ended) -> None:
    assert (ended.returncode, ended.output) == (STATUS, COMPUTED), ended.errors
    assert ended.own_lines == ended.errors.splitlines()


def check_ended_early(trace, error: str) -> None:
    assert (trace.health.state, os.strerror(trace.health.error)) == ("disk full", error)
    assert trace.health.damage == []
    assert len(trace.marks) > 1000
    assert paths(trace) == ["request"]
    assert trace.scopes["open"].tolist() == [True]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return run_program("faults", tmp_path_factory.mktemp("faults"), CALLS)


def test_disk_full_at_every_call(faults):
    assert faults.returncode == 0, faults.errors
    outcomes = [json.loads(line) for line in faults.output.splitlines()]
    assert [outcome["call"] for outcome in outcomes] == list(range(CALLS))
    said = faults.own_lines
    assert said == faults.errors.splitlines()
    for outcome in outcomes:
        call, directory = outcome["call"], faults.directory / str(outcome["call"])
        lines = [line for line in said if f"/{call}/" in line]
        if call < TO_BEGIN:
            assert "No space left on device" in outcome["refused"]
            assert "out=... or WANHOOK_OUT" in outcome["refused"]
            assert list(directory.iterdir()) == lines == []
        elif call < 3 + CHUNKS_NEEDED:
            check_ended_early(only_trace(directory), "No space left on device")
            assert len(lines) == 1
            assert lines[0].endswith("No space left on device")
        elif call > 3 + CHUNKS_NEEDED:
            trace = only_trace(directory)
            assert trace.health.state == "stopped"
            assert len(trace.marks) >= 60_000
            assert lines == []


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 3 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", directory], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"may not mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield directory
    subprocess.run(["umount", directory], check=True)


def test_real_disk_that_fills_up(small_disk, tmp_path):
    ended = run_program("busy", tmp_path, WANHOOK_OUT=str(small_disk / "run"))
    check_program(ended)
    at_start, early = ended.own_lines
    assert "may write 2048 MiB" in at_start
    assert early.endswith("No space left on device")
    check_ended_early(only_trace(small_disk / "run"), "No space left on device")


def test_real_disk_that_is_full(small_disk, tmp_path):
    with open(small_disk / "hog", "wb") as file, pytest.raises(OSError, match="No space left"):
        file.write(bytes(4 << 20))
    ended = run_program("busy", tmp_path, WANHOOK_OUT=str(small_disk))
    check_program(ended)
    assert len(ended.own_lines) == 1
    assert "No space left on device" in ended.own_lines[0]
    assert [path.name for path in small_disk.iterdir()] == ["hog"]


def test_file_size_limit(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, resource.RLIM_INFINITY))

    ended = run_program("busy", tmp_path, WANHOOK_OUT="run", limit=limit)
    check_program(ended)
    assert len(ended.own_lines) == 1
    assert ended.own_lines[0].endswith("File too large")
    check_ended_early(only_trace(tmp_path / "run"), "File too large")
    assert next((tmp_path / "run").iterdir()).stat().st_size <= 3 << 20


def test_file_size_limit_below_the_least(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, resource.RLIM_INFINITY))

    ended = run_program("busy", tmp_path, WANHOOK_OUT="run", limit=limit)
    check_program(ended)
    assert len(ended.own_lines) == 1
    assert "File too large" in ended.own_lines[0]
    assert list((tmp_path / "run").iterdir()) == []


def test_cap_is_reached(tmp_path):
    ended = run_program("busy", tmp_path, WANHOOK_OUT="run", WANHOOK_MAX_MB="4")
    check_program(ended)
    assert len(ended.own_lines) == 1
    assert "raise WANHOOK_MAX_MB" in ended.own_lines[0]
    trace = only_trace(tmp_path / "run")
    assert (trace.health.state, trace.health.error) == ("full", 0)
    assert next((tmp_path / "run").iterdir()).stat().st_size <= 4 << 20


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(4096, id="ample"),
        pytest.param(2560, id="scarce"),
    ],
)
def test_address_space_is_left_to_the_program(tmp_path, left):
    ended = run_program("address_space", tmp_path, left, 1024, WANHOOK_OUT="run")
    assert (ended.returncode, ended.output) == (0, "had 1024 MiB\n"), ended.errors
    assert [name for name, _ in marks(only_trace(tmp_path / "run"))] == ["before", "after"]


def test_address_space_too_small_for_the_cap(tmp_path):
    ended = run_program("address_space", tmp_path, 1536, 16, WANHOOK_OUT="run")
    assert (ended.returncode, ended.output, ended.errors) == (0, "had 16 MiB\n", "")
    trace = only_trace(tmp_path / "run")
    assert [name for name, _ in marks(trace)] == ["before", "after"]
    assert trace.header["capacity_bytes"] < 1536 << 20


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    ended = run_program("busy", tmp_path, WANHOOK_OUT="file/run")
    check_program(ended)
    assert len(ended.own_lines) == 1
    assert "cannot write a recording to" in ended.own_lines[0]
    assert "out=... or WANHOOK_OUT" in ended.own_lines[0]


def test_named_directory_that_cannot_be_made_raises_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(wanhook.WanhookError, match="Pass another directory with out="):
        wanhook.start(tmp_path / "file" / "run")
    with pytest.raises(wanhook.WanhookError, match="File exists"), wanhook.trace("x", out=tmp_path / "file"):
        pytest.fail("entered a scope that cannot be recorded")


@pytest.fixture
def read_only(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk


def test_read_only_directory(read_only, tmp_path):
    for out in (read_only, read_only / "run"):
        ended = run_program("busy", tmp_path, WANHOOK_OUT=str(out))
        check_program(ended)
        assert len(ended.own_lines) == 1
        assert "Read-only file system" in ended.own_lines[0]


def test_switched_off(tmp_path):
    ended = run_program("busy", tmp_path, WANHOOK="0", WANHOOK_OUT="run")
    check_program(ended)
    assert ended.errors == ""
    assert list(tmp_path.iterdir()) == []
