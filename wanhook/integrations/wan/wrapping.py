"""Puts the table's wrappers on and takes them off. Each is made once, around scopes that are prepared beforehand."""

import functools
import sys

from wanhook._native import load as load_native
from wanhook.decorators import in_scope
from wanhook.integrations.patches import Patches
from wanhook.integrations.wan import loops, models, stages
from wanhook.integrations.wan.points import Point
from wanhook.recording import trace

_C = load_native()
_patches = Patches()


def put_on(point: Point, level: str) -> None:
    """Wraps a point whose module is imported. Raises AttributeError when the module has no such attribute."""
    module = sys.modules[point.module]
    wrap = _wrapper(point, level)
    owner, _, method = point.attribute.rpartition(".")
    if owner:
        _patches.replace(getattr(module, owner), method, wrap)
    elif point.kind == "loop":
        _patches.replace(module, method, wrap)  # tqdm is everybody's, and only this module's name for it is Wan's loop
    else:
        _patches.replace_function(module, method, wrap)


def sweep(late: bool) -> None:
    """Call it after put_on(); ``late``: others may have copied the functions' names already."""
    _patches.sweep(late)


def take_off() -> None:
    """Everything as it was before the first put_on()."""
    _patches.undo()
    models.forget_blocks()


def _wrapper(point: Point, level: str):
    special = {
        "request": stages.request,
        "load": stages.load,
        "load_dit": stages.load_dit,
        "configure": stages.configure,
        "expert_switch": stages.expert_switch,
        "offload": stages.offload,
        "timesteps": stages.timesteps,
        "loop": loops.TracedProgress,
        "dit_forward": functools.partial(models.dit_forward, level=level),
        "all_to_all": _all_to_all,
        "sp_gather": functools.partial(_sp_gather, level=level),
    }
    if point.kind == "block":
        return models.block(point.scope)
    if point.kind == "load_part":
        return stages.load_part(point.scope)
    return _scoped(point.scope, point.level) if point.kind == "scope" else special[point.kind]


def _scoped(name: str, level: str):
    scope = trace(name, level=level)
    return lambda original: _C.call_natively(in_scope(scope, original), "scope")


def _all_to_all(original):
    """Heads are scattered (dimension 2) on the way in, for q, k and v, and the sequence (1) on the way out."""
    return _in_role((2, "qkv", "out"), original)


def _sp_gather(original, level: str):
    tagged = _in_role((None, "sp_gather", "sp_gather"), original)
    return _scoped("sp_gather", "op")(tagged) if level == "op" else tagged


def _in_role(roles: tuple, original):
    """``roles``: what is scattered by default, the role of that, and the role of everything else; if the two are one,
    no argument is looked at, for it may be a tensor."""

    @functools.wraps(original)
    def call(*args, **kwargs):
        by_default, role, other = roles
        if role is not other:
            scattered = args[1] if len(args) > 1 else kwargs.get("scatter_dim", kwargs.get("scatter_idx", by_default))
            role = role if scattered == by_default else other
        with _C.role(role):
            return original(*args, **kwargs)

    return _C.call_natively(call, "role")
