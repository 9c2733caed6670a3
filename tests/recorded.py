"""Records a block of a test in this process and reads the file back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from wanhook.tracefile.format import ScopeEndFlags
from wanhook.tracefile.model import Trace, load

EXCEPTION = ScopeEndFlags.EXCEPTION
CLOSED_BY_OUTER = ScopeEndFlags.CLOSED_BY_OUTER


@dataclass(frozen=True)
class Row:
    """A scope without its times."""

    path: str
    flags: ScopeEndFlags
    open: bool
    args: dict


@contextmanager
def recorded(out: Path, **options) -> Iterator[SimpleNamespace]:
    """Records the block into ``out``; afterwards the yielded object's ``trace`` is what a reader sees, also when the
    block raised. ``options`` go to wanhook.start."""
    import wanhook

    result = SimpleNamespace(trace=None)
    wanhook.start(out, **options)
    try:
        yield result
    finally:
        wanhook.stop()
        result.trace = only_trace(out)


def only_trace(out: Path) -> Trace:
    """The one trace in a run directory."""
    run = load(out)
    assert run.problems == []
    assert len(run) == 1, [trace.path.name for trace in run]
    return run.traces[0]


def rows(trace: Trace) -> list[Row]:
    """The scopes in order of their begin."""
    assert trace.health.damage == []
    return [
        Row(
            trace.paths[scope["path"]],
            ScopeEndFlags(int(scope["flags"])),
            bool(scope["open"]),
            trace.scope_args.get(int(scope["id"]), {}),
        )
        for scope in trace.scopes
    ]


def paths(trace: Trace) -> list[str]:
    """Paths of the scopes in order of their begin."""
    return [row.path for row in rows(trace)]


def marks(trace: Trace) -> list[tuple[str, str]]:
    """(name, path of the scope around it) of each mark, by time; "" where there is none."""
    around = [trace.paths[path] if path >= 0 else "" for path in trace.path_of(trace.marks["scope"])]
    return [(trace.strings[name], path) for name, path in zip(trace.marks["name"], around, strict=True)]
