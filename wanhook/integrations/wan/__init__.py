"""Scopes and roles for every stage of Wan2.1 and Wan2.2, put on from outside; docs/integrations.md lists them.

Importing this package, and installing it in a process that never imports Wan, loads neither the extension nor anything
of Wan's.
"""

import functools
import sys

from wanhook import settings
from wanhook.integrations.import_hook import forget, on_import
from wanhook.integrations.wan.points import POINTS, Point, generation

_watched: dict[str, object] = {}  # module: the action that waits for it
_missing: list[str] = []
_attached: list[str] = []


def install(level: str | None = None) -> None:
    """Wraps each point now if its module is imported, else right after it is.

    ``level``: deepest scopes that will be recorded, WANHOOK_LEVEL unless given; what lies deeper stays as it is.
    """
    if _watched:
        return
    level = level or settings.from_environment().level
    for module in dict.fromkeys(point.module for point in POINTS if point.is_wans):
        _watch(module, level, sweep=False)
    if (wrapping := sys.modules.get(f"{__name__}.wrapping")) is not None:
        wrapping.sweep(late=True)  # once for everything that was imported before


def uninstall() -> None:
    """Puts the originals back wherever they were, and stops watching for imports."""
    for module, action in _watched.items():
        forget(module, action)
    _watched.clear()
    _missing.clear()
    _attached.clear()
    if (wrapping := sys.modules.get(f"{__name__}.wrapping")) is not None:
        wrapping.take_off()


def attached() -> list[str]:
    """Names of the points that are wrapped in this process, ``module:attribute``."""
    return list(_attached)


def missing() -> list[str]:
    """Names of the points that a module which is imported ought to have and has not."""
    return list(_missing)


def _watch(module: str, level: str, sweep: bool = True) -> None:
    if module not in _watched:
        late = module in sys.modules
        _watched[module] = functools.partial(_attach, module, level, late, sweep or not late)
        on_import(module, _watched[module])


def _attach(module: str, level: str, late: bool, sweep: bool) -> None:
    try:
        from wanhook.integrations.wan import wrapping

        there = generation()
        for point in POINTS:
            if there not in point.generations or not point.is_recorded_at(level):
                continue
            if not point.is_wans:
                _watch(point.module, level)
            if point.module != module:
                continue
            try:
                wrapping.put_on(point, level)
                _attached.append(str(point))
            except AttributeError:
                _note_missing(point)
        if sweep:
            wrapping.sweep(late)
    except Exception as error:  # the program is Wan's, whatever becomes of its recording
        settings.complain(f"the integration wan is left out: {type(error).__name__}: {error}".splitlines()[0])
        uninstall()


def _note_missing(point: Point) -> None:
    from wanhook import attach

    _missing.append(str(point))
    attach.note(f"{point} is not there: {point.loses} will be missing")
