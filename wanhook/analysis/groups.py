"""Process groups of a run, joined across ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace
    from wanhook.tracefile.names import Group

_NO_DESCRIPTION = ("", "undefined")
_Identity = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class GroupClass:
    """Process groups that play one part: alike in description, size and backend, no rank in two of them (the
    sequence-parallel groups of a run, say). `members` are the groups' ranks where they are known."""

    label: str
    size: int
    backend: str
    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]


class GroupClasses:
    """Which class each group of each trace belongs to."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        groups = [group for trace in traces for group in trace.groups.values()]
        # Members are written when they are known, which is not on every rank.
        self._members = {group.name: tuple(group.ranks) for group in groups if group.ranks}
        self._classes: dict[_Identity, GroupClass] = {}
        alike: dict[tuple[str, int, str], list[_Identity]] = {}
        for group in groups:
            text = group.description or ""
            kind = ("" if text in _NO_DESCRIPTION else text, group.size, group.backend)
            identities = alike.setdefault(kind, [])
            if self._identity(group) not in identities:
                identities.append(self._identity(group))
        for kind, identities in alike.items():
            for part in _parts(identities):
                self._classes.update(dict.fromkeys(part, _class_of(kind, part)))

    def of(self, trace: Trace, number: int) -> GroupClass:
        """The class of the trace's group; its size is 0 where the file does not describe the group."""
        return self._classes[self._identity(trace.groups[number])]

    def all(self) -> list[GroupClass]:
        """Each class once, in the order in which their groups were first seen."""
        return list(dict.fromkeys(self._classes.values()))

    def _identity(self, group: Group) -> _Identity:
        return group.name, tuple(group.ranks or self._members.get(group.name, ()))


def _parts(identities: list[_Identity]) -> Iterator[list[_Identity]]:
    ranks = [rank for _, members in identities for rank in members]
    disjoint = all(members for _, members in identities) and len(ranks) == len(set(ranks))
    yield from [identities] if disjoint else [[one] for one in identities]


def _class_of(kind: tuple[str, int, str], part: list[_Identity]) -> GroupClass:
    description, size, backend = kind
    names = tuple(sorted(name for name, _ in part))
    label = description or (f"group {names[0]}" if len(names) == 1 else "groups")
    return GroupClass(label, size, backend, names, tuple(sorted(ranks for _, ranks in part if ranks)))
