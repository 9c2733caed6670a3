"""Recordings that cannot begin or end as they should: the program goes on, and the next recording is whole."""

import os
import signal

import pytest

import wanhook
from recorded import marks, only_trace, paths
from wanhook import metadata, recording, run_directory
from wanhook._native import load as load_native


def is_recording() -> bool:
    return load_native().status()["recording"]


@pytest.mark.parametrize("rank", ["9" * 20, "9" * 5000, "-1", "1.5", "٣", "", "rank"])
def test_rank_that_is_no_number(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", rank)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", rank)
    with wanhook.trace("request", out=tmp_path):
        pass
    trace = only_trace(tmp_path)
    assert (paths(trace), trace.rank) == (["request"], None)


def test_environment_that_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "NCCL_ODD", os.fsdecode(b"a\xffb"))
    monkeypatch.setenv("NCCL_EVEN", "1")
    monkeypatch.setitem(os.environ, "WANHOOK_VERIFY", os.fsdecode(b"st\xffp"))
    wanhook.start(tmp_path)
    wanhook.stop()
    environment = only_trace(tmp_path).meta["environment"]
    assert (environment["NCCL_EVEN"], environment["NCCL_ODD"]) == ("1", "a?b")


@pytest.mark.parametrize("name", [b"no\xfftext", b"two\nlines", b" 'quoted\" "])
def test_directory_of_any_name(tmp_path, name):
    directory = tmp_path / os.fsdecode(name)
    assert wanhook.start(directory) == directory
    assert load_native().status()["path"].startswith(str(directory))
    wanhook.mark("inside")
    wanhook.stop()
    assert marks(only_trace(directory)) == [("inside", "")]


def test_trace_that_begins_while_another_thread_ends_a_recording(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANHOOK_OUT", str(tmp_path))
    native = load_native()

    def meet_the_other(*_):
        native.start(os.fsencode(tmp_path / "other.wanhook"), 4 << 20, 0, b"")
        return tmp_path / "ours.wanhook"

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(run_directory, "unused_path", meet_the_other)
        with wanhook.trace("in the other's"):
            assert is_recording()
    native.stop(False, 0)
    assert capsys.readouterr().err == ""
    with wanhook.trace("next"):
        pass
    assert sorted(paths(trace) for trace in wanhook.load(tmp_path)) == [["in the other's"], ["next"]]


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken("the GPU is gone"), KeyboardInterrupt()])
def test_begin_that_fails_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(metadata, "describe_start", fail)
        with pytest.raises(type(error)):
            wanhook.start(tmp_path)
        assert not is_recording()
        assert list(tmp_path.iterdir()) == []
    wanhook.start(tmp_path)
    wanhook.mark("next")
    wanhook.stop()
    assert marks(only_trace(tmp_path)) == [("next", "")]


def test_interrupt_while_the_outermost_trace_begins(tmp_path, monkeypatch):
    monkeypatch.setenv("WANHOOK_OUT", str(tmp_path))

    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as broken:
        broken.setattr(recording, "_warn_about_room", interrupted)
        with pytest.raises(KeyboardInterrupt), wanhook.trace("request"):
            pytest.fail("was interrupted before")
        assert not is_recording()
    with wanhook.trace("next"):
        pass
    assert paths(only_trace(tmp_path)) == ["next"]


@pytest.mark.parametrize("kind", ["with", "generator"])
def test_interrupt_while_the_outermost_trace_ends(tmp_path, monkeypatch, kind):
    """It is the program's, and not ours to swallow."""
    describe = metadata.describe_now

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        return describe()

    def request():
        with wanhook.trace("request", out=tmp_path):
            monkeypatch.setattr(metadata, "describe_now", interrupted)

    @wanhook.trace("request", out=tmp_path)
    def produce():
        monkeypatch.setattr(metadata, "describe_now", interrupted)
        yield

    with pytest.raises(KeyboardInterrupt):
        request() if kind == "with" else list(produce())
    assert not is_recording()
    assert only_trace(tmp_path).health.state == "stopped"


def test_directory_name_that_cannot_be_one(tmp_path):
    with pytest.raises(wanhook.WanhookError, match="embedded null byte"):
        wanhook.start(tmp_path / "a\0b")
    assert not is_recording()


def test_end_that_cannot_be_described_is_an_end(tmp_path, monkeypatch, capsys):
    def fail():
        raise Broken("the GPU is gone")

    with wanhook.trace("request", out=tmp_path):
        monkeypatch.setattr(metadata, "describe_now", fail)
    assert not is_recording()
    said = capsys.readouterr().err
    assert said == "wanhook: the end of the recording is not described: Broken: the GPU is gone\n"
    trace = only_trace(tmp_path)
    assert (paths(trace), trace.health.state) == (["request"], "stopped")
