"""begin_wait() and end_wait(): scopes of type wait, for integrations."""

import threading

import pytest
import torch

import wanhook
from recorded import only_trace, paths, recorded
from wanhook._native import load
from wanhook.tracefile.format import ScopeLevel, ScopeType

native = load()


def test_a_wait_is_a_leaf(tmp_path):
    """What comes while it is open belongs to the scope around it."""
    with recorded(tmp_path) as result, wanhook.trace("outer"):
        assert native.begin_wait("the wait") is True
        wanhook.mark("inside")
        with wanhook.trace("scope"):
            pass
        native.end_wait()
    trace = result.trace
    assert paths(trace) == ["outer", "outer/the wait", "outer/scope"]
    assert [trace.paths[path] for path in trace.path_of(trace.marks["scope"])] == ["outer"]
    wait = trace.scopes[1]
    assert (wait["type"], wait["level"], bool(wait["open"])) == (ScopeType.WAIT, ScopeLevel.OP, False)
    assert wait["begin"] < wait["end"]


def test_a_thread_has_one_wait_at_a_time(tmp_path):
    with recorded(tmp_path) as result:
        assert native.begin_wait("first") is True
        assert native.begin_wait("second") is False
        native.end_wait()
        native.end_wait()  # none is open
        assert native.begin_wait("third") is True
        native.end_wait()
    assert paths(result.trace) == ["first", "third"]


def test_each_thread_has_its_own(tmp_path):
    found = []

    def other():
        found.append(native.begin_wait("other"))
        native.end_wait()

    with recorded(tmp_path) as result, wanhook.trace("outer"):
        native.begin_wait("own")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        native.end_wait()
    assert found == [True]
    assert sorted(paths(result.trace)) == ["other", "outer", "outer/own"]
    assert len(set(result.trace.scopes["thread"].tolist())) == 2


def test_it_starts_no_recording(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert native.begin_wait("alone") is False
    native.end_wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", ["stage", "block"])
def test_only_level_op_records_it(tmp_path, level):
    with recorded(tmp_path, level=level) as result, wanhook.trace("outer"):
        assert native.begin_wait("wait") is False
        native.end_wait()
    assert paths(result.trace) == ["outer"]


def test_a_pause_records_none(tmp_path):
    with recorded(tmp_path) as result:
        wanhook.pause()
        assert native.begin_wait("wait") is False
        wanhook.resume()
    assert paths(result.trace) == []


def test_a_wait_outlives_its_recording(tmp_path):
    """It stays open in the first file and is in no other."""
    wanhook.start(tmp_path / "first")
    native.begin_wait("wait")
    wanhook.stop()
    assert native.leftovers() == ["a wait is open on this thread"]
    with recorded(tmp_path / "second") as result:
        native.end_wait()
    assert paths(result.trace) == []
    assert only_trace(tmp_path / "first").scopes["open"].tolist() == [True]


def test_the_name_is_a_str():
    with pytest.raises(TypeError, match="begin_wait"):
        native.begin_wait(1)


def test_modes_of_autograd_do_not_matter(tmp_path):
    with recorded(tmp_path) as result:
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                native.begin_wait("wait")
                native.end_wait()
    assert paths(result.trace) == ["wait"] * 2
