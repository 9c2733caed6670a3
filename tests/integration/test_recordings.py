"""Recordings that begin and end inside one process."""

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import wanhook
from programs import run_program
from recorded import CLOSED_BY_OUTER, Row, marks, only_trace, paths, recorded, rows
from wanhook import recording, run_directory, settings
from wanhook._native import load as load_native


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Recordings that name no directory go here."""
    monkeypatch.setenv("WANHOOK_OUT", str(tmp_path / "run"))
    return tmp_path / "run"


def test_outermost_trace_is_the_recording(directory):
    with wanhook.trace("request") as scope:
        assert scope.id > 0
        with wanhook.trace("inner"):
            assert load_native().status()["recording"]
    assert not load_native().status()["recording"]
    trace = only_trace(directory)
    assert paths(trace) == ["request", "request/inner"]
    assert trace.health.state == "stopped"
    assert trace.meta["run"]["started_by"] == "trace"
    with wanhook.trace("request"):
        pass
    run = wanhook.load(directory)
    assert [paths(trace) for trace in run] == [["request", "request/inner"], ["request"]]


def test_outermost_trace_names_its_directory(tmp_path):
    with pytest.raises(ZeroDivisionError), wanhook.trace("request", out=tmp_path / "a"):
        wanhook.mark(str(1 / 0))
    assert [(row.path, int(row.flags)) for row in rows(only_trace(tmp_path / "a"))] == [("request", 1)]


def test_default_directory_is_named_by_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANHOOK_OUT", raising=False)
    made = wanhook.start()
    wanhook.stop()
    assert made == tmp_path / "wanhook-runs" / made.name
    assert only_trace(made).run_id == made.name


def test_start_while_a_recording_runs_is_refused_and_harmless(tmp_path):
    with recorded(tmp_path / "first") as result, wanhook.trace("goes on"):
        with pytest.raises(wanhook.WanhookError, match=r"runs already; call wanhook.stop\(\) first"):
            wanhook.start(tmp_path / "second")
        with wanhook.trace("inner", out=tmp_path / "third"):
            pass
    assert paths(result.trace) == ["goes on", "goes on/inner"]
    assert not list((tmp_path / "third").glob("*"))
    wanhook.stop()  # nothing runs: does nothing


@pytest.mark.parametrize("options", [{"level": "deep"}, {"max_mb": 1}, {"max_mb": -5}, {"max_mb": 2**60}])
def test_bad_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must be"):
        wanhook.start(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_two_recordings_in_a_row(tmp_path):
    for name in ("first", "second"):
        with recorded(tmp_path / name), wanhook.trace("same name"), wanhook.trace(f"only {name}"):
            wanhook.mark("mark")
    first, second = (only_trace(tmp_path / name) for name in ("first", "second"))
    assert paths(first) == ["same name", "same name/only first"]
    assert paths(second) == ["same name", "same name/only second"]
    assert second.header["life"] == first.header["life"] + 1
    assert second.meta["run"]["recording"] == first.meta["run"]["recording"] + 1
    assert not set(first.scopes["id"]) & set(second.scopes["id"])


def test_scope_that_outlives_its_recording(tmp_path):
    wanhook.start(tmp_path / "first")
    outer = wanhook.trace("outer")
    outer.__enter__()
    wanhook.stop()
    with recorded(tmp_path / "second") as second, wanhook.trace("inner"):
        wanhook.mark("inside")
        outer.__exit__(None, None, None)  # and what is open inside, whatever recording it is in
        wanhook.mark("outside")
    assert rows(only_trace(tmp_path / "first")) == [Row("outer", 0, True, {})]
    assert rows(second.trace) == [Row("inner", CLOSED_BY_OUTER, False, {})]
    assert marks(second.trace) == [("inside", "inner"), ("outside", "")]


def test_stop_inside_the_outermost_trace(directory):
    with wanhook.trace("request"):
        wanhook.stop()
        with wanhook.trace("unrecorded"):
            wanhook.mark("unrecorded")
    assert rows(only_trace(directory)) == [Row("request", 0, True, {})]


def test_recording_outlives_a_thread_and_a_thread_many_recordings(tmp_path):
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    def work():
        for number in range(3):
            go.acquire()
            with wanhook.trace(f"job {number}"):
                pass
            done.release()

    thread = threading.Thread(target=work)
    thread.start()
    seen = []
    for number in range(3):
        with recorded(tmp_path / str(number)) as result:
            go.release()
            done.acquire()
            if number == 2:
                thread.join()
            with wanhook.trace("afterwards"):
                pass
        seen.append(paths(result.trace))
    assert seen == [[f"job {number}", "afterwards"] for number in range(3)]


def test_bad_settings_are_reported_and_the_defaults_taken(directory, monkeypatch, capfd):
    monkeypatch.setattr(settings, "_said", set(), raising=False)
    monkeypatch.setenv("WANHOOK_LEVEL", "deepest")
    monkeypatch.setenv("WANHOOK_MAX_MB", "lots")
    wanhook.start()
    wanhook.stop()
    errors = capfd.readouterr().err.splitlines()
    assert [line for line in errors if "deepest" in line] == [
        "wanhook: WANHOOK_LEVEL='deepest' is not one of stage, block, op; using op"
    ]
    assert sum("WANHOOK_MAX_MB='lots'" in line for line in errors) == 1
    trace = only_trace(directory)
    assert trace.meta["wanhook"]["level"] == "op"
    assert trace.header["capacity_bytes"] > (settings.DEFAULT_MAX_MB - 1) << 20


def test_scarce_room_is_reported_once(directory, monkeypatch, capfd):
    monkeypatch.setattr(settings, "_said", set(), raising=False)
    free = itertools.count(900 << 20, -(1 << 20))
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    for _ in range(3):
        enter("request")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "may write 2048 MiB each" in lines[0]


def test_cap_is_the_files_size(tmp_path):
    with recorded(tmp_path, max_mb=4) as result:
        pass
    assert 3 << 20 < result.trace.header["capacity_bytes"] <= 4 << 20


def test_file_of_an_earlier_process_is_left_alone(tmp_path):
    """Process ids repeat, in containers with every start."""
    in_the_way = run_directory.file_path(tmp_path, None, recording._recordings)
    in_the_way.write_bytes(b"not ours")
    wanhook.start(tmp_path)
    wanhook.stop()
    assert in_the_way.read_bytes() == b"not ours"
    assert len(list(tmp_path.iterdir())) == 2


def test_outermost_scope_ends_its_own_recording_only(tmp_path):
    with wanhook.trace("request", out=tmp_path / "first"):
        wanhook.stop()
        wanhook.start(tmp_path / "second")
    wanhook.mark("still recorded")
    wanhook.stop()
    assert marks(only_trace(tmp_path / "second")) == [("still recorded", "")]


def test_recording_that_is_full_stays_the_last_one_until_it_is_stopped(directory, monkeypatch, capfd):
    monkeypatch.setenv("WANHOOK_MAX_MB", "4")
    with wanhook.trace("request") as request:
        fill_up(request)
        thread = threading.Thread(target=enter, args=("another thread",))
        thread.start()
        thread.join()
    assert len(wanhook.load(directory)) == 1
    enter("next request")
    assert len(wanhook.load(directory)) == 2


def enter(name):
    with wanhook.trace(name):
        pass


def fill_up(scope):
    """Records until the recording has ended early."""
    assert scope.id
    while load_native().status()["recording"]:
        wanhook.mark("filler")


def test_failure_of_our_own_is_not_the_programs(directory, monkeypatch, capfd):
    def fails(*arguments):
        raise RuntimeError("a driver that answers nonsense")

    monkeypatch.setattr(recording.metadata, "describe_start", fails)
    try:
        enter("request")
    finally:
        load_native().stop(False, 0)
        # This process would not be recorded any more.
        load_native().set_outermost_hooks(recording._begin_outermost, recording._end_outermost, recording.decorate)
    assert not load_native().status()["recording"]
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_two_threads_enter_the_outermost_scope_at_once(directory, monkeypatch, capfd):
    """The first is held in the middle of starting its recording until the second is inside its own scope, or waits."""
    inside, leave = threading.Event(), threading.Event()
    calls = itertools.count()
    threads = []

    def second():
        with wanhook.trace("second"):
            inside.set()
            leave.wait(10)

    def held(kind):
        if next(calls) == 0:
            threads.append(threading.Thread(target=second))
            threads[0].start()
            inside.wait(0.5)
        return False

    monkeypatch.setattr(recording.spool, "must_spool", held)
    with wanhook.trace("first"):
        leave.set()
        threads[0].join()
    assert capfd.readouterr().err == ""
    assert load_native().status()["recording"] is False
    with wanhook.trace("third"):
        assert load_native().status()["recording"]


def test_recordings_leave_one_mapping_each(tmp_path):
    """A process may have some 65 000 mappings, its own included."""

    def mappings():
        return Path("/proc/self/maps").read_bytes().count(bytes(tmp_path))

    for number in range(3):
        with recorded(tmp_path / str(number), max_mb=4):
            pass
    assert mappings() == 3


def test_names_without_end_are_told(tmp_path):
    ended = run_program("names_without_end", tmp_path, tmp_path / "run")
    assert ended.returncode == 0
    (said,) = ended.own_lines
    assert "65535 different names" in said
    trace = only_trace(tmp_path / "run")
    names = [trace.strings[name] for name in trace.marks["name"]]
    assert (names[0], names[-1], len(names)) == ("step 0", "", 66_000)
    assert any("65535 different names" in note for note in trace.meta["notes"])


def test_a_scope_of_an_earlier_recording_holds_nothing_of_the_next(tmp_path):
    """Its number may be that of another scope there."""
    native = load_native()
    with wanhook.trace("first", out=tmp_path / "first"), wanhook.trace("inner"):
        wanhook.stop()
        wanhook.start(tmp_path / "next")
        kept = torch.ones(5_000)
        wanhook.mark("between")
        native.begin_wait("wait")
        native.end_wait()
        with wanhook.trace("own"):
            more = torch.ones(6_000)
        wanhook.stop()
    trace = only_trace(tmp_path / "next")
    assert trace.health.damage == []
    assert paths(trace) == ["wait", "own"]
    own = {scope["id"]: trace.paths[scope["path"]] for scope in trace.scopes}
    scopes = {int(event["size"]): own.get(event["scope"], "") for event in trace.allocator_events}
    assert scopes[kept.nbytes] == ""
    assert scopes[more.nbytes] == "own"
    assert [int(mark["scope"]) for mark in trace.marks] == [0]
