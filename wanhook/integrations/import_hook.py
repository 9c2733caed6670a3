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


class _Watcher:
    """Stands in a loader for its exec_module(). Names of modules: the loader of a zip file serves all that are in it,
    and to ask for a module's spec is not to import it."""

    def __init__(self, loader, run: Callable[[str], None]) -> None:
        self.names: set[str] = set()
        self._loader, self._execute, self._run = loader, loader.exec_module, run

    def __call__(self, module) -> None:
        name = getattr(getattr(module, "__spec__", None), "name", None)
        is_awaited = name in self.names
        self.names.discard(name)
        if not self.names:
            vars(self._loader).pop("exec_module", None)
        self._execute(module)
        if is_awaited:
            self._run(name)


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
        try:
            watcher = vars(loader).get("exec_module")
            if not isinstance(watcher, _Watcher):
                watcher = loader.exec_module = _Watcher(loader, self.run)
            watcher.names.add(name)
        except (AttributeError, TypeError):  # a loader that takes no attributes: the next import will do
            self.half_imported.add(name)

    def run(self, name: str) -> None:
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
                    self.run(name)


_finder = _Finder()
