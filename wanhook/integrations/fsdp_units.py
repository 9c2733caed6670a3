"""Names of FSDP's units, as reports show them: the class of the model and the module within it (``WanModel blocks.3``);
the root, which holds what is in no other unit, is the class alone (``WanModel``).

Torch knows the names from the first forward of the model on: what a unit gathers before carries none, and under FSDP1
a model whose root has no parameters of its own has names without the class. Each is worked out once.
"""

import functools
import sys
import weakref
from collections.abc import Callable

from wanhook import attach

UNTOLD = ""
_WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")

# By id(), with the reference that takes the entry out again: where a unit is found, its name need not be asked for. A
# WeakKeyDictionary is this in Python, whose frames torch.compile would meet.
known: dict[int, tuple[weakref.ref, str]] = {}
_failed = False


def of_handle(args: tuple) -> str:
    """FSDP1: the unit of _unshard(state, handle, …) or _reduce_grad(state, handle)."""
    return _name_of(args[1], _name_handle, args[0]) if len(args) > 1 else UNTOLD


def of_group(args: tuple) -> str:
    """FSDP2: the unit of a method of FSDPParamGroup."""
    return _name_of(args[0], _name_group)


def forget() -> None:
    """Drops every name, and tries anew where names could not be had."""
    global _failed
    known.clear()
    _failed = False


def _name_of(unit: object, look_up: Callable[..., str | None], *context: object) -> str:
    global _failed
    if unit is None or _failed:  # FSDP1 passes None for a unit without parameters
        return UNTOLD
    try:
        told = known.get(id(unit))
        if told is not None:
            return told[1]
        name = look_up(unit, *context)
        if name is None:
            return UNTOLD
        name = sys.intern(name)  # one object a name: the extension knows it by its address
        gone = functools.partial(known.pop, id(unit))  # called with the reference, pop()'s default
        known[id(unit)] = weakref.ref(unit, gone), name
        return name
    except Exception as error:  # another version of torch
        _failed = True
        attach.note(f"the names of FSDP's units are missing ({type(error).__name__}: {error})")
        return UNTOLD


def _name_handle(handle, state) -> str | None:
    order = state._exec_order_data  # the root's, from its first forward on
    module = _module_of(handle, order)
    if module is None:
        return None
    for other in order.all_handles:
        if _module_of(other, order) == "":
            return _joined(type(other._fully_sharded_module).__name__, module)
    return module


def _module_of(handle, order) -> str | None:
    """Torch keeps a parameter's name within its unit and within the root: the difference is the unit's."""
    flat = handle.flat_param
    in_root = order.param_to_fqn.get(flat)
    if in_root is None and flat._params:  # use_orig_params=True: torch knows the original ones instead
        in_root = order.param_to_fqn.get(flat._params[0])
    return in_root[0].removesuffix(_clean(flat._fqns[0])).removesuffix(".") if in_root else None


def _name_group(group) -> str | None:
    if group._module_fqn is None:
        return None
    state = sys.modules["torch.distributed._composable_state"]._get_module_state(group.modules[0])
    for each in state._state_ctx.all_states:
        if each._is_root:
            # FSDP2 makes a class of FSDPModule and the module's own.
            return _joined(type(each._modules[0]).__bases__[-1].__name__, _clean(group._module_fqn))
    return None


def _clean(name: str) -> str:
    """Without the wrappers that checkpointing, torch.compile and FSDP1 put between a module and its parent."""
    parts = name.split(".")
    for wrapper in _WRAPPERS:
        while wrapper in parts:
            parts.remove(wrapper)
    return ".".join(parts)


def _joined(model: str, module: str) -> str:
    return f"{model} {module}".strip()


# What torch.compile must not take for a frame to compile.
FUNCTIONS = (of_handle, of_group, _name_of, _name_handle, _module_of, _name_group, _clean, _joined)
