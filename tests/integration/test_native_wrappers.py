"""What the native wrappers of the integrations know beyond a scope: block, forward, role, unit and wait."""

import functools
import types

import pytest
import torch

import wanhook
from natively import BOTH, call, seen, wrapped
from recorded import EXCEPTION, recorded
from wanhook._native import load as load_native
from wanhook.integrations import fsdp, fsdp_units
from wanhook.integrations.wan import models, wrapping
from wanhook.integrations.wan.progress import progress

_C = load_native()


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


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
