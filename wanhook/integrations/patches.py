"""Changes to other packages' classes and modules that are taken back in the end."""

import sys
from collections.abc import Callable, Iterable

_ABSENT = object()
_REPLACED = "_wanhook_replaced"


class Patches:
    """What was replaced, newest last. A class keeps no attribute that it only inherited before."""

    def __init__(self) -> None:
        self._replaced: list[tuple[object, str, object, object]] = []  # owner, name, before, now
        self._copied: dict[int, tuple[object, object]] = {}  # by id of the wrapper: it, and what it stands for
        self._new: dict[int, tuple[object, object]] = {}  # the other way round: not swept yet

    def __len__(self) -> int:
        return len(self._replaced)

    def replace(self, owner: object, name: str, wrap: Callable) -> tuple[object, object]:
        """Puts ``wrap(original)`` into a class or module; returns both. Raises AttributeError when there is none.

        What a class inherits from another one that was patched before is taken without that patch.
        """
        before = vars(owner).get(name, _ABSENT)
        original = _unpatched(owner, name)
        now = _wrapped(original, wrap)
        setattr(owner, name, now)
        self._replaced.append((owner, name, before, now))
        return original, now

    def replace_function(self, owner: object, name: str, wrap: Callable) -> tuple[object, object]:
        """replace(), for a function that others import by name: see sweep()."""
        original, now = self.replace(owner, name, wrap)
        self._copied[id(now)] = (now, original)
        self._new[id(original)] = (original, now)
        return original, now

    def sweep(self, needed: bool) -> None:
        """Exchanges the copies of all functions since the last sweep; where they cannot have been copied yet, that is
        not ``needed``. One pass over all names of all modules takes milliseconds, so one for many functions."""
        if needed:
            exchange(self._new, sys.modules.values())
        self._new.clear()

    def undo(self) -> None:
        """Puts everything back, unless somebody else has replaced it since; copies by name too."""
        while self._replaced:
            owner, name, before, now = self._replaced.pop()
            if vars(owner).get(name) is not now:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        exchange(self._copied, sys.modules.values())
        self._copied.clear()
        self._new.clear()


def exchange(pairs: dict[int, tuple[object, object]], modules: Iterable[object]) -> None:
    """In every module, puts the second of a pair where the first is bound to a name; ``pairs`` by id of the first."""
    if not pairs:
        return
    for module in list(modules):
        names = getattr(module, "__dict__", None)  # vars() of a lazy module would be that of its class
        if type(names) is not dict:
            continue
        for name, value in list(names.items()):
            pair = pairs.get(id(value))
            if pair is not None and pair[0] is value:
                names[name] = pair[1]


def original_of(patched: object) -> object:
    """What a patch stands for; the object itself where it is none."""
    function = getattr(patched, "__func__", patched)  # of a classmethod
    return getattr(function, _REPLACED, patched)


def _unpatched(owner: object, name: str) -> object:
    holders = type.mro(owner) if isinstance(owner, type) else [owner]
    for holder in holders:
        if name in vars(holder):
            return original_of(vars(holder)[name])
    raise AttributeError(f"{getattr(owner, '__name__', owner)} has no {name}")


def _wrapped(original, wrap: Callable):
    is_classmethod = isinstance(original, classmethod)
    now = wrap(original.__func__ if is_classmethod else original)
    setattr(now, _REPLACED, original)
    return classmethod(now) if is_classmethod else now
