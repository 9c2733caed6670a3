"""Waits, roles and units of torch's FSDP, both generations: wrappers around the functions in which the compute stream
is made to wait for the stream of the all_gathers, and around those that issue FSDP's collectives. These are told whose
parameters they are for, so what is prefetched while another unit computes carries its own unit's name.

A wait scope begins where FSDP starts to prepare a unit and ends right behind the wait itself, before anything else is
enqueued on the compute stream. In between FSDP works on the host and on streams of its own, so on the GPU the interval
runs from the moment the compute stream ran dry (or, if that is later, FSDP was entered) to its release. Beginning it
only at the wait would lose what passes while the host still issues an all_gather that is running already.

The wrappers do nothing inside torch.compile's graphs, and cost a call or two while nothing is recorded at level op.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wanhook import attach
from wanhook._native import load as load_native
from wanhook.integrations import fsdp_units
from wanhook.integrations.import_hook import forget, on_import

_C = load_native()

WAIT = sys.intern("fsdp wait")  # one object: the extension knows it by its address
ROLE = "fsdp"
_PACKAGE = "torch.distributed.fsdp"
_FSDP1 = f"{_PACKAGE}._runtime_utils"
_GROUP = f"{_PACKAGE}._fully_shard._fsdp_param_group"
_PARAM = f"{_PACKAGE}._fully_shard._fsdp_param"
# Where the unit is among the arguments. FSDP1's functions take (state, handle, …), and None for a unit without
# parameters of its own, which never waits; FSDP2's are methods of the unit.
_SELF, _HANDLE, _HANDLE_BEHIND_MODULE = 0, 1, 2


@dataclass(frozen=True)
class _Point:
    """``name`` is looked up on ``owner``, a class of the module, or on the module itself."""

    module: str
    owner: str | None
    name: str
    wrap: Callable[[Callable], Callable]

    def __str__(self) -> str:
        return ".".join(filter(None, (self.module, self.owner, self.name)))


def install() -> None:
    """Wraps each point now if its module is imported, else right after it is."""
    if not torch.distributed.is_available() or _watched:
        return
    for module in dict.fromkeys(point.module for point in _POINTS):
        _watched.append(module)
        on_import(module, functools.partial(_attach, module))
    _watch_dynamo()


def uninstall() -> None:
    """Puts the originals back, in every module that holds a copy, and stops watching for imports."""
    for module in _watched:
        forget(module)
    _watched.clear()
    while _wrapped:
        point, original, wrapper = _wrapped.pop()
        _exchange(point, wrapper, original)
    fsdp_units.forget()


_watched: list[str] = []
_wrapped: list[tuple[_Point, Callable, Callable]] = []


def _attach(module: str) -> None:
    for point in (point for point in _POINTS if point.module == module):
        try:
            holder = sys.modules[module]
            original = vars(getattr(holder, point.owner) if point.owner else holder)[point.name]
            wrapper = point.wrap(original)
            _exchange(point, original, wrapper)
            _wrapped.append((point, original, wrapper))
        except Exception as error:  # another version of torch: this point is not recorded, and FSDP works as ever
            attach.note(f"{point} is not wrapped ({type(error).__name__}: {error}): waits or roles of FSDP are missing")
    _keep_from_dynamo()


@functools.cache
def _watch_dynamo() -> None:
    on_import("torch._dynamo", _keep_from_dynamo)  # stays: others watch for that module too, and forget() is by name


def _keep_from_dynamo() -> None:
    """torch.compile leaves FSDP's own files alone when they call each other, but would take a wrapper, being none of
    them, for a frame to compile. torch.compiler.disable would import dynamo for that, which takes 0.8 s."""
    skip_code = getattr(sys.modules.get("torch._dynamo.eval_frame"), "skip_code", None)
    if skip_code is not None:
        for function in (*(wrapper for _, _, wrapper in _wrapped), *_QUESTIONS, *fsdp_units.FUNCTIONS):
            skip_code(function.__code__)


def _exchange(point: _Point, old: Callable, new: Callable) -> None:
    """In the class, or in each module of FSDP that imported the function's name."""
    if point.owner:
        holders = [getattr(sys.modules[point.module], point.owner)]
    else:
        holders = [module for name, module in list(sys.modules.items()) if name.startswith(_PACKAGE)]
    for holder in holders:
        if vars(holder).get(point.name) is old:
            setattr(holder, point.name, new)


def _waiting(place: int, may_wait: Callable[[tuple], bool] | None = None) -> Callable[[Callable], Callable]:
    """A wait scope from the function's entry on, where its argument at that place is not None and
    ``may_wait(its arguments)``; it ends at a function wrapped with _ending, at the latest when this one returns."""
    name = WAIT

    def wrap(original):
        @functools.wraps(original)
        def waiting(*args, **kwargs):
            asked = not torch.compiler.is_compiling() and len(args) > place and args[place] is not None
            if not asked or not (may_wait is None or may_wait(args)) or not _C.begin_wait(name):
                return original(*args, **kwargs)
            try:
                return original(*args, **kwargs)
            finally:
                _C.end_wait()

        return _C.call_natively(waiting, "wait")

    return wrap


def _ending(original):
    """The first thing that FSDP calls behind the wait."""

    @functools.wraps(original)
    def ending(*args, **kwargs):
        if not torch.compiler.is_compiling():
            _C.end_wait()
        return original(*args, **kwargs)

    return _C.call_natively(ending, "behind wait")


def _tagged(place: int, unit_of: Callable[[tuple], str]) -> Callable[[Callable], Callable]:
    """The role, and the name of the unit that is the argument at that place, on the collectives that the function
    issues. ``unit_of(its arguments)`` names a unit whose name is not known yet."""
    role, known = ROLE, fsdp_units.known

    def wrap(original):
        @functools.wraps(original)
        def tagged(*args, **kwargs):
            if torch.compiler.is_compiling():
                return original(*args, **kwargs)
            told = known.get(id(args[place])) if len(args) > place else None
            with _C.role(role, unit_of(args) if told is None else told[1]):
                return original(*args, **kwargs)

        return _C.call_natively(tagged, "unit")

    return wrap


def _unshards_in_backward(args: tuple) -> bool:
    """_pre_backward_hook(state, module, handle, grad): it runs for each output of a unit, and waits at the first."""
    handle = args[_HANDLE_BEHIND_MODULE]
    ran = getattr(handle, "_ran_pre_backward_hook", False)
    return not ran and getattr(handle, "_needs_pre_backward_unshard", False)


def _is_sharded(args: tuple) -> bool:
    """pre_forward(group, …), pre_backward(group, …): a group that is unsharded already, and not by a prefetch that is
    under way, is not waited for."""
    return getattr(args[0], "_all_gather_result", None) is not None or not getattr(args[0], "is_unsharded", True)


def _is_unsharded_in_backward(args: tuple) -> bool:
    return getattr(args[0], "unshard_in_backward", True) and _is_sharded(args)


def _is_under_way(args: tuple) -> bool:
    return getattr(args[0], "_all_gather_result", None) is not None


_QUESTIONS = (_unshards_in_backward, _is_sharded, _is_unsharded_in_backward, _is_under_way)
_POINTS = (
    _Point(_FSDP1, None, "_pre_forward_unshard", _waiting(_HANDLE)),
    _Point(_FSDP1, None, "_pre_backward_hook", _waiting(_HANDLE_BEHIND_MODULE, _unshards_in_backward)),
    _Point(_FSDP1, None, "_prefetch_handle", _ending),
    _Point(_FSDP1, None, "_unshard", _tagged(_HANDLE, fsdp_units.of_handle)),
    _Point(_FSDP1, None, "_reduce_grad", _tagged(_HANDLE, fsdp_units.of_handle)),
    _Point(_GROUP, "FSDPParamGroup", "pre_forward", _waiting(_SELF, _is_sharded)),
    _Point(_GROUP, "FSDPParamGroup", "pre_backward", _waiting(_SELF, _is_unsharded_in_backward)),
    # What the user unshards himself, and what was unsharded outside of a forward.
    _Point(_GROUP, "FSDPParamGroup", "wait_for_unshard", _waiting(_SELF, _is_under_way)),
    _Point(_PARAM, "FSDPParam", "init_all_gather_outputs", _ending),
    _Point(_GROUP, "FSDPParamGroup", "unshard", _tagged(_SELF, fsdp_units.of_group)),
    _Point(_GROUP, "FSDPParamGroup", "post_backward", _tagged(_SELF, fsdp_units.of_group)),
)
