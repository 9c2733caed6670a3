"""Tells the collective hook which calls belong to a coalesced group: starting and ending one is no operator.

Two things are wrapped: torch's coalescing manager, which may collect its calls for one operator of the dispatcher, and
the two methods of a ProcessGroup between which NCCL groups calls, whoever calls them (the manager, when it was given a
device, and through it batch_isend_irecv).
"""

import contextlib
import functools
import sys

import torch

from wanhook._native import load as load_native

_C = load_native()

_MANAGER, _START, _END = "_coalescing_manager", "_start_coalescing", "_end_coalescing"
_originals: list[tuple[object, str, object]] = []  # where, name, what was there


def install() -> None:
    """Wraps torch.distributed's coalescing manager in every module that holds it, and ProcessGroup's methods."""
    if not torch.distributed.is_available() or _originals:
        return
    original = torch.distributed.distributed_c10d._coalescing_manager
    wrapped = _wrap_manager(original)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("torch.distributed") and getattr(module, _MANAGER, None) is original:
            _replace(module, _MANAGER, wrapped)
    group = torch.distributed.ProcessGroup
    if hasattr(group, _START) and hasattr(group, _END):
        _replace(group, _START, _wrap_start(getattr(group, _START)))
        _replace(group, _END, _wrap_end(getattr(group, _END)))


def uninstall() -> None:
    """Puts the originals back."""
    while _originals:
        setattr(*_originals.pop())


def _replace(owner: object, name: str, wrapped: object) -> None:
    _originals.append((owner, name, getattr(owner, name)))
    setattr(owner, name, wrapped)


def _wrap_manager(original):
    @functools.wraps(original)
    @contextlib.contextmanager
    def coalescing_manager(*args, **kwargs):
        outer = _C.enter_coalesced()
        try:
            with original(*args, **kwargs) as manager:
                yield manager
        finally:
            _C.leave_coalesced(outer)

    return coalescing_manager


def _wrap_start(original):
    @functools.wraps(original)
    def start_coalescing(*args, **kwargs):
        result = original(*args, **kwargs)
        _C.open_coalesced()
        return result

    return start_coalescing


def _wrap_end(original):
    @functools.wraps(original)
    def end_coalescing(*args, **kwargs):
        return _C.launch_coalesced(original, *args, **kwargs)

    return end_coalescing
