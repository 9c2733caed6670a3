"""Tells the collective hook which calls belong to a coalesced group: starting and ending one is no operator."""

import contextlib
import functools
import itertools
import sys

import torch

from wanhook._native import load as load_native

_C = load_native()

_NAME = "_coalescing_manager"
_numbers = itertools.count(1)
_originals: dict[str, object] = {}


def install() -> None:
    """Wraps torch.distributed's coalescing manager in every module that holds it."""
    if not torch.distributed.is_available() or _originals:
        return
    original = torch.distributed.distributed_c10d._coalescing_manager
    wrapped = _wrap(original)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("torch.distributed") and getattr(module, _NAME, None) is original:
            _originals[module_name] = original
            setattr(module, _NAME, wrapped)


def uninstall() -> None:
    """Puts the original back."""
    for module_name, original in _originals.items():
        setattr(sys.modules[module_name], _NAME, original)
    _originals.clear()


def _wrap(original):
    @functools.wraps(original)
    @contextlib.contextmanager
    def coalescing_manager(*args, **kwargs):
        outer = _C.set_coalesced(next(_numbers) & 0xFFFFFFFF)
        try:
            with original(*args, **kwargs) as manager:
                yield manager
        finally:
            _C.set_coalesced(outer)

    return coalescing_manager
