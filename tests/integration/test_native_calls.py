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
from recorded import EXCEPTION, recorded, rows
from wanhook._native import load as load_native
from wanhook.decorators import in_scope
from wanhook.integrations import fsdp, fsdp_units
from wanhook.integrations.wan import models, wrapping
from wanhook.integrations.wan.progress import progress

_C = load_native()
BOTH = pytest.mark.parametrize("natively", [True, False], ids=["native", "python"])


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def wrapped(wrap, original, natively: bool):
    """The wrapper of `original`; not natively: its code and closure in a function that nobody changed."""
    made = wrap(original)
    if natively:
        return made
    plain = types.FunctionType(made.__code__, made.__globals__, made.__name__, made.__defaults__, made.__closure__)
    return functools.update_wrapper(plain, original)


def call(function, /, *args, **kwargs):
    """From C: the bytecode of Python 3.11 calls the code of a function and not the function."""
    return functools.partial(function)(*args, **kwargs)


def scoped(name: str, **options):
    scope = wanhook.trace(name, **options)
    return lambda original: _C.call_natively(in_scope(scope, original), "scope")


def seen(trace) -> list[tuple]:
    return [(row.path, row.flags, row.args) for row in rows(trace)]


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


@BOTH
def test_block_finds_its_index_however_it_comes(tmp_path, natively):
    class Block:
        pass

    Block.__call__ = wrapped(models.block("block"), lambda self, *args, **kwargs: (self, args, kwargs), natively)
    numbered, other = Block(), Block()
    numbered._wanhook_index = 7
    with recorded(tmp_path) as result:
        for one in (numbered, other, numbered, other):
            assert call(one, 1, b=2) == (one, (1,), {"b": 2})
        assert call(Block.__call__, self=numbered, b=2) == (numbered, (), {"b": 2})
    indices = [{"index": 7}, {}, {"index": 7}, {}, {"index": 7}]
    assert seen(result.trace) == [("block", 0, args) for args in indices]


@BOTH
def test_forwards_are_told_apart_by_their_number_in_the_step(tmp_path, natively, monkeypatch):
    class Model:
        _modules: types.MappingProxyType = types.MappingProxyType({})

    def forward(self, *args, fail=False):
        if fail:
            raise ValueError("inside")
        return self, args

    wrap = functools.partial(models.dit_forward, level="op")
    monkeypatch.setattr(models, "_mark", lambda model, index: vars(model).update(_wanhook_index=index))
    Model.__call__ = wrapped(wrap, forward, natively)
    model = Model()
    monkeypatch.setattr(progress, "expert", "low_noise")
    with recorded(tmp_path) as result:
        assert call(model, 1) == (model, (1,))
        monkeypatch.setattr(progress, "forwards", 0)
        for _ in range(3):
            assert call(model, 2) == (model, (2,))
        with pytest.raises(ValueError, match="inside"):
            call(model, fail=True)
        assert progress.forwards == 4
        assert call(Model.__call__, self=model) == (model, ())
    low = {"expert": "low_noise"}
    told = [low, low | {"cond": True}, low | {"cond": False}, low, low, low]
    flags = [0, 0, 0, 0, EXCEPTION, 0]
    assert seen(result.trace) == [("dit_forward", flag, args) for flag, args in zip(flags, told, strict=True)]


@BOTH
def test_a_units_name_is_asked_for_until_it_is_known(tmp_path, one_rank, natively, monkeypatch):
    asked = []

    def unit_of(args):
        asked.append(args[1])
        return "" if len(asked) < 2 else known.setdefault(id(args[1]), (None, "blocks.3"))[1]

    known: dict = {}
    monkeypatch.setattr(fsdp_units, "known", known)
    function = wrapped(fsdp._tagged(1, unit_of), lambda *_args: torch.distributed.all_reduce(torch.ones(2)), natively)
    unit = object()
    with recorded(tmp_path) as result:
        for _ in range(4):
            call(function, None, unit)
    assert asked == [unit] * 2
    units = [result.trace.strings[each["unit"]] for each in result.trace.collectives]
    assert units == ["", "blocks.3", "blocks.3", "blocks.3"]


def role_of_a_collective() -> str:
    """What a collective of this thread would be tagged with, as the extension tells tests."""
    return "set" if "a role is set on this thread" in _C.leftovers() else "none"


@BOTH
def test_all_to_all_takes_its_role_from_the_dimension(tmp_path, one_rank, natively):
    def send(x, scatter_dim=2, gather_dim=1, scatter_idx=None, group=None):
        torch.distributed.all_reduce(x)
        return role_of_a_collective()

    function = wrapped(wrapping._all_to_all, send, natively)
    x = torch.ones(4)
    with recorded(tmp_path) as result:
        answers = [
            call(function, x),
            call(function, x, 2, 1),
            call(function, x, 1, 2),
            call(function, x, scatter_dim=1),
            call(function, x, gather_dim=2, scatter_idx=1),
            call(function, x, scatter_idx=2),
            call(function, x, scatter_idx=1, scatter_dim=2),
            call(function, x, group=None, scatter_dim=torch.tensor(1)),
        ]
        with pytest.raises(TypeError):
            call(function, x, nonsense=1)
    assert answers == ["set"] * 8
    assert role_of_a_collective() == "none"
    roles = [result.trace.strings[call["role"]] for call in result.trace.collectives]
    assert roles == ["qkv", "qkv", "out", "out", "out", "qkv", "qkv", "out"]


@BOTH
@pytest.mark.parametrize("level", ["op", "block"])
def test_one_role_for_all_looks_at_no_argument(tmp_path, one_rank, natively, level):
    class Touchy:
        __hash__ = None

        def __eq__(self, other):
            raise AssertionError("it was compared")

    def gather(group, x, dim=0):
        torch.distributed.all_reduce(torch.ones(2))
        return group, x

    function = (
        wrapping._sp_gather(gather, level)
        if natively
        else wrapped(functools.partial(wrapping._in_role, (None, "sp_gather", "sp_gather")), gather, natively)
    )
    one = Touchy()
    with recorded(tmp_path) as result:
        assert call(function, 1, one)[1] is one
        assert call(function, 1, x=one)[1] is one
    assert [result.trace.strings[each["role"]] for each in result.trace.collectives] == ["sp_gather"] * 2


@BOTH
def test_unit_and_role_of_fsdp(tmp_path, one_rank, natively):
    def gather(state, handle, fail=False):
        torch.distributed.all_reduce(torch.ones(2))
        if fail:
            raise ValueError(handle)

    function = wrapped(fsdp._tagged(1, lambda args: args[1]), gather, natively)
    with recorded(tmp_path) as result:
        call(function, None, "WanModel blocks.3")
        call(function, None, "")
        with pytest.raises(ValueError, match=r"blocks\.4"):
            call(function, None, "WanModel blocks.4", fail=True)
    assert role_of_a_collective() == "none"
    trace = result.trace
    tags = [(trace.strings[call["role"]], trace.strings[call["unit"]]) for call in trace.collectives]
    assert tags == [("fsdp", "WanModel blocks.3"), ("fsdp", ""), ("fsdp", "WanModel blocks.4")]


@BOTH
def test_tags_are_there_when_recording_goes_on_inside(tmp_path, one_rank, natively):
    def gather(*args):
        wanhook.resume()
        torch.distributed.all_reduce(torch.ones(2))
        wanhook.pause()

    tagged = wrapped(fsdp._tagged(1, lambda args: args[1]), gather, natively)
    sent = wrapped(wrapping._all_to_all, gather, natively)
    with recorded(tmp_path) as result:
        wanhook.pause()
        call(tagged, None, "blocks.3")
        call(sent, None, 1)
    trace = result.trace
    tags = [(trace.strings[call["role"]], trace.strings[call["unit"]]) for call in trace.collectives]
    assert tags == [("fsdp", "blocks.3"), ("out", "")]


@BOTH
def test_waits_begin_and_end_where_they_should(tmp_path, natively):
    steps = []

    def inner():
        steps.append("a wait is open on this thread" in _C.leftovers())
        call(behind)
        steps.append("a wait is open on this thread" in _C.leftovers())
        if fail:
            raise ValueError("inside")

    def entered(state, handle):
        return call(again, state, handle)

    fail = False
    behind = wrapped(fsdp._ending, lambda: None, natively)
    again = wrapped(fsdp._waiting(1), lambda state, handle: inner(), natively)
    function = wrapped(fsdp._waiting(1), entered, natively)
    with recorded(tmp_path / "op") as result, wanhook.trace("forward"):
        call(function, 1, 2)
        call(function, 1, None)
        fail = True
        with pytest.raises(ValueError, match="inside"):
            call(function, 1, 2)
    assert steps == [True, False, False, False, True, False]
    assert seen(result.trace) == [("forward", 0, {})] + [("forward/fsdp wait", 0, {})] * 2
    fail = False
    with recorded(tmp_path / "block", level="block") as result:
        call(function, 1, 2)
    assert seen(result.trace) == []


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
