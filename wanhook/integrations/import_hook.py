"""Runs a function right after a module's own code has run, before anybody else can copy names from it."""

import importlib.util
import sys
from collections.abc import Callable


def on_import(name: str, action: Callable[[], None]) -> None:
    """Calls ``action`` now if the module is imported, else right after it is. ``action`` must not raise."""
    if name in sys.modules:
        action()
        return
    sys.meta_path.insert(0, _Watcher(name, action))


def forget(name: str) -> None:
    """Takes the watchers for a module that was never imported off again."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not (isinstance(finder, _Watcher) and finder.name == name)
    ]


class _Watcher:
    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name = name
        self._action = action
        self._looking = False

    def find_spec(self, name, path=None, target=None):
        if name != self.name or self._looking:
            return None
        # The module's real finder is asked through the same list, this one stepping aside.
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            # Only now: to ask for a spec is not to import.
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._action()

        spec.loader.exec_module = exec_module
        return spec
