"""Tells the collective hook which calls belong to a coalesced group: starting and ending one is no operator.

Two things are wrapped: torch's coalescing manager, which may collect its calls for one operator of the dispatcher, and
the two methods of a ProcessGroup between which NCCL groups calls, whoever calls them (the manager, when it was given a
device, and through it batch_isend_irecv).

This is part of recording collectives, and no integration to choose: whoever loads the recorder has it, also under
WANHOOK_INTEGRATIONS=none. Without it the members of a group would each be shown with a time of their own, which they
do not have.
"""

import contextlib
import functools
import sys

import torch

from wanhook._native import load as load_native
from wanhook.integrations.patches import Patches

_C = load_native()

_MANAGER, _START, _END = "_coalescing_manager", "_start_coalescing", "_end_coalescing"
_patches = Patches()


def install() -> None:
    """Wraps torch.distributed's coalescing manager in every module that holds it, and ProcessGroup's methods."""
    if not torch.distributed.is_available() or len(_patches):
        return
    home = torch.distributed.distributed_c10d
    original, wrapped = _patches.replace_function(home, _MANAGER, _wrap_manager)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("torch.distributed") and vars(module).get(_MANAGER) is original:
            _patches.replace(module, _MANAGER, lambda _: wrapped)
    group = torch.distributed.ProcessGroup
    if hasattr(group, _START) and hasattr(group, _END):
        _patches.replace(group, _START, _wrap_start)
        _patches.replace(group, _END, _wrap_end)


def uninstall() -> None:
    """Puts the originals back, also where somebody has copied the manager's name since."""
    _patches.undo()


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
