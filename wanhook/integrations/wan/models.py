"""What a model's own call needs beyond a scope: which forward of the step it is, and which block each block is."""

import functools
import types
import weakref

import torch

from wanhook._native import load as load_native
from wanhook.decorators import in_scope
from wanhook.integrations.wan.progress import progress
from wanhook.recording import trace

_C = load_native()

_INDEX = "_wanhook_index"  # a plain number on the instance: it survives deepcopy and pickle
_WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")
_numbered: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()


class _Scopes(dict):
    """Prepared scopes by what tells them apart; a known one costs a look-up."""

    def __init__(self, make) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key):
        self[key] = scope = self._make(key)
        return scope


def dit_forward(original, level: str):
    """``__call__`` of a model. With cond where Wan calls the model twice a step: conditional first."""

    def make(key):
        told = dict(zip(("cond", "expert"), key, strict=True))
        return trace("dit_forward", **{name: value for name, value in told.items() if value is not None})

    scopes = _Scopes(make)

    def scope_of(model):
        if _INDEX not in model.__dict__:
            _number_blocks(model, level)
        number = progress.forwards
        if number is None:
            return scopes[None, progress.expert]
        progress.forwards = number + 1
        return scopes[number == 0 if number < 2 else None, progress.expert]

    @functools.wraps(original)
    def call(self, *args, **kwargs):
        if torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        with _C.again(scope_of(self)):
            return original(self, *args, **kwargs)

    return _C.call_natively(call, "forward")


def block(name: str):
    """``__call__`` of a block, with its index in the model."""
    scopes = _Scopes(lambda index: trace(name, level="block", **({} if index is None else {"index": index})))

    def wrap(original):
        @functools.wraps(original)
        def call(self, *args, **kwargs):
            if torch.compiler.is_compiling():
                return original(self, *args, **kwargs)
            with _C.again(scopes[self.__dict__.get(_INDEX)]):
                return original(self, *args, **kwargs)

        return _C.call_natively(call, "block")

    return wrap


def forget_blocks() -> None:
    """Takes index and timed ffn off every instance that has them."""
    for model in list(_numbered):
        vars(model).pop(_INDEX, None)
        forward = vars(model).get("forward")
        if getattr(forward, "__func__", None) is _ffn_forward:
            del vars(model)["forward"]
    _numbered.clear()


def _number_blocks(model: torch.nn.Module, level: str) -> None:
    """At the first call: before that, blocks may still be replaced or wrapped."""
    _mark(model, -1)
    for name in ("blocks", "vace_blocks"):
        blocks = model._modules.get(name)
        for index, one in enumerate(blocks if isinstance(blocks, torch.nn.ModuleList) else ()):
            inner = _unwrapped(one)
            _mark(inner, index)
            if level == "op":
                _time_ffn(inner)


def _mark(module: torch.nn.Module, index: int) -> None:
    vars(module)[_INDEX] = index
    _numbered.add(module)


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    while (name := next((name for name in _WRAPPERS if name in module._modules), None)) is not None:
        module = module._modules[name]
    return module


def _class_forward(self, *args, **kwargs):
    return type(self).forward(self, *args, **kwargs)


_ffn_forward = _C.call_natively(in_scope(trace("ffn", level="op"), _class_forward), "scope")
# A copied or unpickled module looks its method up by this name, and finds its class's own.
_ffn_forward.__name__ = "forward"


def _time_ffn(one: torch.nn.Module) -> None:
    """A plain nn.Sequential, so the instance; a hook would cost torch's slow path for hooked modules."""
    ffn = one._modules.get("ffn")
    ffn = None if ffn is None else _unwrapped(ffn)
    if ffn is not None and "forward" not in vars(ffn):
        vars(ffn)["forward"] = types.MethodType(_ffn_forward, ffn)
        _numbered.add(ffn)
