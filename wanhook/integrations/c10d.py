"""Tells the collective hook what no operator does: which calls belong to a coalesced group, and that a group is gone.

Wrapped are torch's coalescing manager, which may collect its calls for one operator of the dispatcher; the two methods
of a ProcessGroup between which NCCL groups calls, whoever calls them (the manager, when it was given a device, and
through it batch_isend_irecv); and destroy_process_group(), as another group can come to an old one's address.

This is part of recording collectives, and no integration to choose: whoever loads the recorder has it, also under
WANHOOK_INTEGRATIONS=none. Without it the members of a coalesced group would each be shown with a time of their own,
which they do not have.
"""

import contextlib
import functools
import sys

import torch

from wanhook._native import load as load_native
from wanhook.integrations.patches import Patches

_C = load_native()

_MANAGER, _START, _END = "_coalescing_manager", "_start_coalescing", "_end_coalescing"
_DESTROY = "destroy_process_group"
_patches = Patches()


def install() -> None:
    """Wraps torch.distributed's functions in every module of its that holds them, and ProcessGroup's methods."""
    if not torch.distributed.is_available() or len(_patches):
        return
    home = torch.distributed.distributed_c10d
    for name, wrap in ((_MANAGER, _wrap_manager), (_DESTROY, _wrap_destroy)):
        original, wrapped = _patches.replace_function(home, name, wrap)
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("torch.distributed") and vars(module).get(name) is original:
                _patches.replace(module, name, lambda _, wrapped=wrapped: wrapped)
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


def _wrap_destroy(original):
    @functools.wraps(original)
    def destroy_process_group(group=None, *args, **kwargs):
        gone = _address_of(group)
        try:
            return original(group, *args, **kwargs)
        finally:
            _C.forget_group(gone)

    return destroy_process_group


def _address_of(group: object) -> int:
    """Of the C++ object; 0, which stands for all groups, for the default one; -1 where torch does not tell it."""
    if group is None or group is torch.distributed.group.WORLD:
        return 0
    try:
        return int(group._id())
    except Exception:
        return -1


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
