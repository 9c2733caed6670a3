"""Runs a function right after a module's own code has run, before anybody else can copy names from it."""

import importlib.util
import sys
import threading
from collections.abc import Callable

Action = Callable[[], None]


def on_import(name: str, action: Action) -> None:
    """Calls ``action`` now if the module is imported, else right after it is. ``action`` must not raise."""
    module = sys.modules.get(name)
    if module is not None and not _is_being_imported(module):
        action()
        return
    _finder.waiting.setdefault(name, []).append(action)
    if module is not None:
        _finder.half_imported.add(name)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(name: str, action: Action | None = None) -> None:
    """Takes one action, or all of them, for a module that was never imported off again."""
    actions = [one for one in _finder.waiting.pop(name, []) if action is not None and one != action]
    if actions:
        _finder.waiting[name] = actions
    _finder.leave_if_idle()


def _is_being_imported(module) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Finder:
    """One for all modules: each import asks each finder of the list, and finds nothing to do in a dictionary."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Action]] = {}
        self.half_imported: set[str] = set()  # when they were asked about; nobody will look for their spec again
        self._looking = threading.local()

    def find_spec(self, name, path=None, target=None):
        if self.half_imported:
            self._settle()
        if name not in self.waiting or getattr(self._looking, "name", None) == name:
            return None
        # The module's real finder is asked through the same list, this one stepping aside.
        outer, self._looking.name = getattr(self._looking, "name", None), name
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.name = outer
        # A loader that is a class serves other modules too.
        if spec is not None and hasattr(spec.loader, "exec_module") and not isinstance(spec.loader, type):
            self._watch(spec.loader, name)
        return spec

    def leave_if_idle(self) -> None:
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)

    def _watch(self, loader, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module):
            vars(loader).pop("exec_module", None)
            execute(module)
            # Only now: to ask for a spec is not to import.
            self._run(name)

        loader.exec_module = exec_module

    def _run(self, name: str) -> None:
        actions = self.waiting.pop(name, [])
        self.leave_if_idle()
        for action in actions:
            action()

    def _settle(self) -> None:
        for name in list(self.half_imported):
            module = sys.modules.get(name)
            if module is None or not _is_being_imported(module):
                self.half_imported.discard(name)
                if module is not None:
                    self._run(name)


_finder = _Finder()
