"""Which Wan a program would import, and which points of the integration's table are in its sources.

The sources are read as text: importing wan initialises CUDA. What a class inherits from a class of another package is
taken to be there.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from wanhook.doctor.line import OK, WARN, Line

AREA = "Wan"
TABLE = "wanhook.integrations.wan.points"
MAX_MISSING = 12  # lines


class Point(Protocol):
    """A row of the integration's table."""

    module: str
    attribute: str
    scope: str
    generations: tuple[str, ...]
    loses: str


def points() -> tuple[Point, ...]:
    """The integration's table; empty where this wanhook has none. The table needs neither torch nor Wan."""
    try:
        return tuple(import_module(TABLE).POINTS)
    except ImportError:
        return ()


def lines(table: Sequence[Point], beside: Path | None = None) -> list[Line]:
    """`beside`: a directory that comes first on the path, such as a checkout of Wan; the current one if None."""
    where = folder_of("wan", [str(beside or Path.cwd()), *sys.path])
    if where is None:
        remedy = "run the doctor in a checkout of Wan, or name it with --wan DIRECTORY"
        where = f"{beside}, which holds no package wan" if beside else "here"
        return [Line(AREA, "wan", WARN, f"cannot be imported from {where}: its stages would record nothing", remedy)]
    version = "2.2" if (where / "distributed" / "ulysses.py").is_file() else "2.1"
    found = Line(AREA, "wan", OK, f"Wan{version} in {where}")
    if not table:
        return [found, Line(AREA, "points", WARN, "this wanhook has no integration of Wan", "update wanhook")]
    return [found, *_points([point for point in table if version in point.generations], where)]


def folder_of(package: str, paths: Sequence[str]) -> Path | None:
    """Where the package is, without importing it; `paths` stand for sys.path."""
    try:
        with _path(paths):
            spec = find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


@contextmanager
def _path(paths: Sequence[str]):
    before, sys.path[:] = list(sys.path), list(paths)
    try:
        yield
    finally:
        sys.path[:] = before


def _points(table: Sequence[Point], wan: Path) -> list[Line]:
    sources = _Sources(wan)
    present, missing, absent, others = [], [], set(), set()
    for point in table:
        top = point.module.partition(".")[0]
        tree = sources.tree(point.module)
        if tree is None:
            # The integration waits for a module's import: one that is not there loses nothing that would run.
            (absent if top == "wan" else others).add(point.module if top == "wan" else top)
        else:
            (present if has(tree, point.attribute) else missing).append(point)
    made = [_summary(len(present), len(missing), sorted(absent), sorted(others))]
    made += [_lost(point) for point in missing[:MAX_MISSING]]
    if len(missing) > MAX_MISSING:
        made.append(Line(AREA, "points", WARN, f"{len(missing) - MAX_MISSING} more are missing"))
    return made


def _summary(present: int, missing: int, absent: list[str], others: list[str]) -> Line:
    text = f"{present} of {present + missing} points are there"
    text += f"; modules that this Wan does not have: {', '.join(absent)}" if absent else ""
    text += f"; not installed, and not needed by every run: {', '.join(others)}" if others else ""
    return Line(AREA, "points", OK if present else WARN, text)


def _lost(point: Point) -> Line:
    text = f"{point.module}:{point.attribute} is not there: {point.loses} will be missing"
    return Line(AREA, "point", WARN, text, "update wanhook; this Wan is newer or older than what it knows")


class _Sources:
    """Parsed modules by name."""

    def __init__(self, wan: Path) -> None:
        self._folders: dict[str, Path | None] = {"wan": wan}
        self._trees: dict[str, ast.Module | None] = {}

    def tree(self, module: str) -> ast.Module | None:
        """None for a module whose source cannot be found or read."""
        if module not in self._trees:
            self._trees[module] = self._parse(module)
        return self._trees[module]

    def _parse(self, module: str) -> ast.Module | None:
        top, *inner = module.split(".")
        if top not in self._folders:
            self._folders[top] = folder_of(top, sys.path)
        folder = self._folders[top]
        if folder is None:
            return None
        place = folder.joinpath(*inner)
        for file in (place.with_name(place.name + ".py"), place / "__init__.py"):
            try:
                return ast.parse(file.read_bytes())
            except OSError:
                continue
            except (SyntaxError, ValueError):
                return None
        return None


def has(tree: ast.Module, attribute: str) -> bool:
    """Whether a module defines or imports `name`, or has a class with `Class.method` (its own or inherited)."""
    owner, _, name = attribute.rpartition(".")
    bound = dict(_bindings(tree.body))
    if not owner:
        return name in bound
    return owner in bound and _has_member(owner, name, bound, set())


def _has_member(owner: str, name: str, bound: dict[str, ast.AST], seen: set[str]) -> bool:
    node = bound.get(owner)
    if not isinstance(node, ast.ClassDef) or owner in seen:
        return owner not in seen  # imported, or made by a call: nothing can be said against it
    if name in dict(_bindings(node.body)) or hasattr(object, name):
        return True
    bases = [getattr(base, "id", None) for base in node.bases]
    return any(base is None or base not in bound or _has_member(base, name, bound, seen | {owner}) for base in bases)


def _bindings(body: Iterable[ast.AST]):
    """(name, node) of what statements bind, those under if, try and with too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _bindings(getattr(node, part, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _bindings(handler.body)
