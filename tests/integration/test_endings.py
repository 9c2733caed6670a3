"""However a recording program ends, its exit status is its own and every finished record is readable."""

import signal
from types import SimpleNamespace

import pytest

import wanhook
from programs import run_program, run_two_at_a_time
from recorded import EXCEPTION, Row, marks, only_trace, paths, rows

WAYS = (
    "os_exit", "abort", "open_scopes", "uncaught", "sys_exit", "thread_at_exit", "outermost_at_exit",
    "scopes_never_left", "deleted_directory", "spooled_and_forked", "spooled_and_full",
)  # fmt: skip


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """One program for each way, by its name."""

    def run(way):
        directory = tmp_path_factory.mktemp(way)
        out = {} if way == "deleted_directory" else {"WANHOOK_OUT": "run"}
        return run_program("forks" if way == "forks" else "endings", directory, way, **out)

    return SimpleNamespace(**run_two_at_a_time(run, [*WAYS, "forks"]))


def check_open_request(ended, trace):
    assert rows(trace) == [Row("request", 0, True, {}), Row("request/step", 0, True, {})]
    assert marks(trace) == [("last words", "request/step")]
    assert ended.own_lines == []


@pytest.mark.parametrize(("way", "status"), [("os_exit", 7), ("abort", -signal.SIGABRT)])
def test_process_that_dies(endings, way, status):
    ended = getattr(endings, way)
    assert (ended.returncode, ended.output) == (status, "")
    trace = only_trace(ended.directory / "run")
    check_open_request(ended, trace)
    assert (trace.health.state, trace.health.crashed, trace.health.dropped) == ("recording", True, 0)


def test_exit_with_open_scopes(endings):
    ended = endings.open_scopes
    assert (ended.returncode, ended.output, ended.errors) == (0, "reached the end\n", "")
    trace = only_trace(ended.directory / "run")
    check_open_request(ended, trace)
    assert (trace.health.state, trace.health.crashed) == ("exited", False)


def test_uncaught_exception_is_shown_as_without_wanhook(endings):
    ended = endings.uncaught
    assert ended.returncode == 1
    assert ended.errors.splitlines()[-1] == "ValueError: the program's own"
    assert "wanhook" not in ended.errors.replace("with wanhook.trace", "")
    trace = only_trace(ended.directory / "run")
    assert [(row.path, row.flags) for row in rows(trace)] == [("request", EXCEPTION), ("request/step", EXCEPTION)]
    assert trace.health.state == "exited"


def test_sys_exit_keeps_its_status(endings):
    ended = endings.sys_exit
    assert (ended.returncode, ended.output, ended.errors) == (5, "", "")
    trace = only_trace(ended.directory / "run")
    assert [(row.path, row.flags) for row in rows(trace)] == [("request", EXCEPTION), ("request/step", EXCEPTION)]
    assert trace.health.state == "stopped"


def test_thread_that_records_until_the_end(endings):
    ended = endings.thread_at_exit
    assert (ended.returncode, ended.output, ended.errors) == (0, "reached the end\n", "")
    trace = only_trace(ended.directory / "run")
    assert trace.health.damage == []
    assert trace.health.state == "exited"
    assert marks(trace) == [("last words", "")]
    assert set(paths(trace)) == {"request", "request/step"}
    assert trace.scopes["open"][0]
    assert trace.scopes["open"].sum() <= 2


def test_daemon_threads_begin_no_recording_at_exit(endings):
    ended = endings.outermost_at_exit
    assert (ended.returncode, ended.output, ended.errors) == (0, "reached the end\n", "")
    assert only_trace(ended.directory / "run").health.state == "exited"


def test_scopes_that_are_never_left(endings):
    ended = endings.scopes_never_left
    assert (ended.returncode, ended.output, ended.errors) == (0, "reached the end\n", "")
    trace = only_trace(ended.directory / "run")
    assert (len(trace.scopes), trace.health.state) == (20_000, "exited")
    assert trace.scopes["open"].all()
    assert marks(trace) == [("last words", "")]


def test_current_directory_is_gone(endings):
    ended = endings.deleted_directory
    assert (ended.returncode, ended.output) == (0, "reached the end\n"), ended.errors
    assert len(ended.own_lines) == 1
    assert len(ended.errors.splitlines()) == 1


def test_forked_children_are_silent_and_the_parent_is_whole(endings):
    ended = endings.forks
    assert (ended.returncode, ended.output, ended.errors) == (0, "reached the end\n", "")
    assert sorted(path.name for path in ended.directory.iterdir()) == ["run"]
    first, second = wanhook.load(ended.directory / "run")
    assert paths(first) == ["request", "request/around the fork", "request/after"]
    assert [name for name, _ in marks(first)] == ["before", "after"]
    assert marks(second) == [("second recording", "")]
    assert (first.health.state, second.health.state) == ("stopped", "stopped")
    for trace in (first, second):
        assert not [text for text in trace.strings if "child" in text or "worker" in text]
        assert trace.health.damage == []
        assert b"child" not in trace.path.read_bytes()


def test_child_leaves_spooled_recordings_to_its_parent(endings):
    ended = endings.spooled_and_forked
    assert (ended.returncode, ended.output, ended.errors) == (0, "reached the end\n", "")
    assert marks(only_trace(ended.directory / "run")) == [("last words", "request")]


def test_spooled_recording_that_ended_early_is_brought_home(endings):
    ended = endings.spooled_and_full
    assert (ended.returncode, ended.output) == (0, "reached the end\n")
    assert len(ended.own_lines) == len(ended.errors.splitlines()) == 1
    trace = only_trace(ended.directory / "run")
    assert not trace.path.is_symlink()
    assert trace.health.state == "full"
    assert marks(trace)[0] == ("last words", "")
