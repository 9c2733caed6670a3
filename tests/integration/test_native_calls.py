"""Wrappers whose calls run in the extension do what their Python code says: the same scopes, roles, results and
exceptions, whoever calls them. Each test runs a wrapper twice, natively and by its own code."""

import functools
import gc
import sys
import tempfile
import threading
import traceback
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._C._dynamo.eval_frame import set_eval_frame

import wanhook
from natively import BOTH, call, scoped, seen, wrapped
from recorded import EXCEPTION, recorded, rows
from wanhook._native import load as load_native
from wanhook.decorators import in_scope
from wanhook.integrations.wan import models

_C = load_native()


@BOTH
@given(
    args=st.lists(st.integers(), max_size=4),
    kwargs=st.dictionaries(st.sampled_from(["function", "original", "scope", "self", "x"]), st.integers(), max_size=3),
)
def test_arguments_and_result_go_through(natively, args, kwargs):
    function = wrapped(scoped("s"), lambda *args, **kwargs: (args, kwargs), natively)
    with tempfile.TemporaryDirectory() as out, recorded(Path(out)):
        assert call(function, *args, **kwargs) == (tuple(args), kwargs)
        assert function(*args, **kwargs) == (tuple(args), kwargs)
    assert call(function, *args, **kwargs) == (tuple(args), kwargs)


@BOTH
def test_scopes_nest_and_keep_their_arguments(tmp_path, natively):
    def countdown(left):
        return call(function, left - 1) if left else wanhook.mark("bottom")

    function = wrapped(scoped("count", level="op", why="test"), countdown, natively)
    with recorded(tmp_path) as result, wanhook.trace("outer"):
        call(function, 2)
        call(function, 0)
    paths = ["outer", *("outer" + "/count" * depth for depth in (1, 2, 3, 1))]
    assert seen(result.trace) == [(path, 0, {"why": "test"} if "count" in path else {}) for path in paths]
    assert not any(scope["open"] for scope in result.trace.scopes)


@BOTH
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), StopIteration(1)], ids=repr)
def test_exception_goes_through_untouched(tmp_path, natively, error):
    def fail():
        try:
            raise LookupError("before")
        except LookupError:
            raise error from None

    function = wrapped(scoped("failing"), fail, natively)
    with recorded(tmp_path) as result:
        with pytest.raises(type(error)) as caught:
            call(function)
        with wanhook.trace("after"):
            pass
    assert caught.value is error
    assert isinstance(error.__context__, LookupError)
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "fail"
    failed = 0 if isinstance(error, StopIteration) else EXCEPTION
    assert seen(result.trace) == [("failing", failed, {}), ("after", 0, {})]


@BOTH
def test_an_endless_recursion_is_an_exception_and_no_crash(tmp_path, natively):
    function = wrapped(scoped("deep", level="block"), lambda: call(function), natively)
    with recorded(tmp_path) as result, pytest.raises(RecursionError):
        call(function)
    assert len(result.trace.scopes) > 10
    assert set(result.trace.scopes["flags"]) == {EXCEPTION}


@BOTH
def test_a_circle_of_calls_from_c_is_an_exception_and_no_crash(tmp_path, natively):
    around = functools.partial(lambda: None)
    function = wrapped(scoped("round"), around, natively)
    around.__setstate__((function, (), {}, {}))
    try:
        with recorded(tmp_path), pytest.raises(RecursionError):
            call(function)
    finally:
        around.__setstate__((len, (), {}, {}))


def test_a_programs_own_functions_recur_as_deep_as_ever(tmp_path):
    """Python runs their calls of each other on one frame of C."""

    @wanhook.trace("deep", level="op")
    def countdown(left):
        return countdown(left - 1) if left else 0

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with recorded(tmp_path) as result:
            assert countdown(3_000) == 0
    finally:
        sys.setrecursionlimit(limit)
    assert len(result.trace.scopes) == 3_001


def test_each_function_has_a_code_of_its_own():
    """torch.compile gives up a code after it met eight functions of it."""
    first, second = (in_scope(wanhook.trace("s"), len) for _ in range(2))
    assert first.__code__ is not second.__code__
    assert first([1]) == 1


@pytest.mark.parametrize("variable", [0, 1])
def test_an_emptied_closure_is_an_error_and_no_crash(tmp_path, variable):
    function = scoped("s")(lambda: None)
    with recorded(tmp_path):
        del function.__closure__[variable].cell_contents
        with pytest.raises(NameError):
            call(function)


@BOTH
def test_what_the_level_or_a_pause_leaves_out_is_called_all_the_same(tmp_path, natively):
    function = wrapped(scoped("fine", level="op"), lambda: "result", natively)
    with recorded(tmp_path, level="block") as result:
        assert call(function) == "result"
        wanhook.pause()
        assert call(wrapped(scoped("paused"), lambda: "result", natively)) == "result"
        wanhook.resume()
    assert seen(result.trace) == []


@BOTH
def test_outermost_scope_starts_and_ends_a_recording(tmp_path, natively):
    def inside():
        return _C.status()["recording"]

    function = wrapped(scoped("outermost", out=tmp_path), inside, natively)
    assert call(function)
    assert not _C.status()["recording"]
    (trace,) = wanhook.load(tmp_path).traces
    assert seen(trace) == [("outermost", 0, {})]


@BOTH
def test_recording_that_ends_inside(tmp_path, natively):
    function = wrapped(scoped("left open"), wanhook.stop, natively)
    with recorded(tmp_path) as result:
        call(function)
    assert [(row.path, row.open) for row in rows(result.trace)] == [("left open", True)]
    assert not _C.status()["recording"]


@BOTH
def test_threads_have_scopes_of_their_own(tmp_path, natively):
    function = wrapped(scoped("worker"), lambda: barrier.wait(10), natively)
    barrier = threading.Barrier(2)
    with recorded(tmp_path) as result:
        other = threading.Thread(target=lambda: call(function))
        other.start()
        call(function)
        other.join()
    assert seen(result.trace) == [("worker", 0, {})] * 2


@BOTH
def test_methods_bind(tmp_path, natively):
    class Thing:
        pass

    Thing.double = wrapped(scoped("double"), lambda self, x=1: (self, 2 * x), natively)
    thing = Thing()
    thing.own = types.MethodType(Thing.double, thing)
    with recorded(tmp_path) as result:
        assert thing.double(4) == (thing, 8)
        assert call(thing.own, x=5) == (thing, 10)
        assert list(map(thing.double, [1, 2])) == [(thing, 2), (thing, 4)]
    assert seen(result.trace) == [("double", 0, {})] * 4


@pytest.mark.parametrize("frames", [True, False], ids=["dynamo", "export"])
def test_where_torch_traces_the_functions_own_code_runs(tmp_path, monkeypatch, frames):
    """Dynamo is to see the wrapper's frame; what is exported is traced with the flag up."""
    made = models.block("block")(lambda self: sys._getframe(1).f_code)
    code, block = made.__code__, types.SimpleNamespace(_wanhook_index=None)
    with recorded(tmp_path):
        call(made, block)  # its scope is made by its own code
        assert call(made, block) is not code
        if frames:
            before = set_eval_frame(False)  # looks at each frame, and compiles none
            try:
                found = call(made, block)
            finally:
                set_eval_frame(before)
        else:
            monkeypatch.setattr(torch.compiler, "_is_compiling_flag", True)
            found = call(made, block)
        assert found is code
        monkeypatch.undo()
        assert call(made, block) is not code


def test_calls_leave_nothing_behind(tmp_path):
    result, argument = object(), object()
    function = scoped("again", level="op", index=1)(lambda x, *, y: result)

    def fail(x):
        raise ValueError("failed")

    failing = scoped("failing")(fail)
    counts = []
    with recorded(tmp_path):
        for _ in range(3):
            for _ in range(200):
                call(function, argument, y=argument)
                with pytest.raises(ValueError, match="failed"):
                    call(failing, argument)
            gc.collect()
            counts.append([sys.getrefcount(each) for each in (result, argument, function, ValueError)])
    assert counts[1] == counts[2]


def test_refuses_what_it_would_not_understand():
    def plain():
        return None

    def other(original):
        def call():
            return original

        return call

    for function, kind in ((plain, "scope"), (other(1), "scope"), (plain, "block"), (other(1), "nonsense")):
        with pytest.raises(ValueError, match=r"free variables|no kind of call"):
            _C.call_natively(function, kind)
    with pytest.raises(TypeError):
        _C.call_natively(len, "scope")
