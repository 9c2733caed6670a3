"""What things are called: the meta object, strings, process groups, and paths of scopes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import orjson

from .format import MAX_STRING_ID, Kind
from .reader import Slots

MAX_NAME_BYTES = 1024
MAX_META_BYTES = 2 << 20  # of all meta objects together: parsed JSON takes up to 24 times its text
MAX_LIST = 1000  # entries of a list that is put together from several meta objects
MAX_THREADS = 1 << 16
MAX_DEPTH = 64
BEYOND = MAX_STRING_ID + 1  # stands for every id that no string can have
PATH_NAME = 200  # characters of one name inside a path
PATH_OVERHEAD = 56  # bytes of a str object and its place in the list


@dataclass(frozen=True)
class Group:
    """A process group: `rank` is this process's rank in it, `ranks` its members' global ranks where known."""

    name: str
    backend: str = ""
    rank: int = -1
    size: int = 0
    ranks: tuple[int, ...] | None = None
    description: str = ""


class Arguments(Mapping):
    """id -> dict of the arguments given with a scope or a mark; parsed when asked for, {} where damaged."""

    def __init__(self, slots: Slots, kind: Kind, keys: np.ndarray, positions: np.ndarray):
        """`keys` (int[n], unique) name the records at `positions`; records without text are left out."""
        starts, lengths = slots.text_spans(kind, positions)
        some = np.flatnonzero(lengths)
        some = some[np.argsort(keys[some], kind="stable")]
        self._keys, self._starts, self._lengths = keys[some].astype(np.int64), starts[some], lengths[some]
        self._payloads = slots.payloads

    def __getitem__(self, key: int) -> dict:
        row = int(np.searchsorted(self._keys, key))
        if row == len(self._keys) or self._keys[row] != key:
            raise KeyError(key)
        return _json_object(self._payloads.bytes(int(self._starts[row]), int(self._lengths[row]))) or {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys.tolist())

    def __len__(self) -> int:
        return len(self._keys)


def _json_object(text: bytes) -> dict | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _is_text_list(value) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _merge(meta: dict, entries: dict) -> None:
    """Sections merge key by key, lists of text take what they lack, everything else is replaced."""
    for key, value in entries.items():
        old = meta.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            old.update(value)
        elif _is_text_list(old) and _is_text_list(value):
            meta[key] = list(dict.fromkeys(old + value))[:MAX_LIST]
        else:
            meta[key] = value


def _text_list(slots: Slots, kind: Kind, positions: np.ndarray) -> list[tuple[int, int]]:
    starts, lengths = slots.text_spans(kind, positions)
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


def read_meta(slots: Slots) -> dict:
    """All Meta records as one object."""
    meta: dict = {}
    left = MAX_META_BYTES
    positions = slots.positions(Kind.META)
    for start, length in _text_list(slots, Kind.META, positions):
        left -= length
        entries = _json_object(slots.payloads.bytes(start, length)) if left >= 0 else None
        if entries is None:
            slots.note("meta records that are no JSON object, or too long")
        else:
            _merge(meta, entries)
    return meta


def section(meta: dict, name: str) -> dict:
    """A section of the meta object; {} where it is missing or no object."""
    found = meta.get(name)
    return found if isinstance(found, dict) else {}


def whole(value, least: int = 0) -> int | None:
    """`value` where it is an int of at least `least` and of 63 bits, else None."""
    return value if type(value) is int and least <= value < 1 << 63 else None


def first_of_each(ids: np.ndarray) -> np.ndarray:
    """Index of the first of each distinct id (int64, by id)."""
    return np.unique(ids, return_index=True)[1]


def read_strings(slots: Slots) -> dict[int, str]:
    """The string table: id -> text."""
    positions = slots.positions(Kind.STRING)
    ids = slots.column(Kind.STRING, "id", positions)
    first = first_of_each(ids)
    slots.note("strings with an id that came before", len(ids) - len(first))
    valid = first[(ids[first] > 0) & (ids[first] <= MAX_STRING_ID)]
    slots.note("strings with an id out of range", len(first) - len(valid))
    starts, lengths = slots.text_spans(Kind.STRING, positions[valid])
    slots.note(f"strings longer than {MAX_NAME_BYTES} bytes, cut", (lengths > MAX_NAME_BYTES).sum())
    lengths = np.minimum(lengths, MAX_NAME_BYTES)
    spans = zip(ids[valid].tolist(), starts.tolist(), lengths.tolist(), strict=True)
    return {key: slots.payloads.bytes(start, length).decode(errors="replace") for key, start, length in spans}


def string_list(known: dict[int, str], used: Iterable[np.ndarray]) -> list[str]:
    """Text by id, long enough for every id in `used`; "?<id>" where the file does not say."""
    longest = max([0, *known, *(int(ids.max()) for ids in used if len(ids))])
    return [known.get(key, f"?{key}" if key else "") for key in range(longest + 1)]


def read_groups(slots: Slots, meta: dict, used: np.ndarray, strings: dict[int, str]) -> dict[int, Group]:
    """Group by number; the numbers in `used` that no record describes are there too, named "?<number>"."""
    positions = slots.positions(Kind.GROUP)
    positions = positions[first_of_each(slots.column(Kind.GROUP, "group", positions))]
    rows = slots.rows(Kind.GROUP, positions)
    known = section(meta, "groups")
    groups = {}
    for row, (start, length) in zip(rows, _text_list(slots, Kind.GROUP, positions), strict=True):
        name = strings.get(int(row["name"]), f"?{row['name']}")
        members = np.frombuffer(slots.payloads.bytes(start, length - length % 4), "<u4")
        about = section(known, name)
        ranks = tuple(members.tolist()) or _ranks(about.get("ranks"))
        backend = strings.get(int(row["backend"]), f"?{row['backend']}") if row["backend"] else ""
        description = about.get("description")
        description = description if isinstance(description, str) else ""
        groups[int(row["group"])] = Group(name, backend, int(row["rank"]), int(row["size"]), ranks, description)
    for number in np.unique(used).tolist():
        groups.setdefault(number, Group(f"?{number}" if number else ""))
    return dict(sorted(groups.items()))


def _ranks(value) -> tuple[int, ...] | None:
    known = isinstance(value, list) and value and all(whole(rank) is not None for rank in value)
    return tuple(value) if known else None


def build_paths(
    parents: np.ndarray, names: np.ndarray, strings: list[str], budget: int, note: Callable[[str, int], None]
) -> tuple[np.ndarray, list[str]]:
    """Path of each scope: the names of the scopes around it and its own, joined by "/".

    `parents` are rows (int64[n], -1 for a root), in any order: rows in a circle, and rows deeper than MAX_DEPTH, get
    the path "…/<name>". `budget` bounds the bytes of all paths together; paths beyond it read "…".
    Returns the index of each scope's path (int32[n]) and the distinct paths.
    """
    found = np.full(len(parents), -1, np.int64)
    paths: list[str] = []

    def assign(rows: np.ndarray, above: np.ndarray) -> None:
        nonlocal budget
        keys, inverse = np.unique((above << 17) | names[rows], return_inverse=True)
        found[rows] = inverse.reshape(-1) + len(paths)
        for key in keys.tolist():
            name = strings[key & 0x1FFFF][:PATH_NAME]
            outer = key >> 17
            path = f"{paths[outer]}/{name}" if outer >= 0 else f"…/{name}" if outer == -2 else name
            budget -= len(path) + PATH_OVERHEAD
            paths.append(path if budget >= 0 else "…")

    pending = np.flatnonzero(parents < 0)
    assign(pending, np.full(len(pending), -1, np.int64))
    pending = np.flatnonzero(parents >= 0)
    for _ in range(MAX_DEPTH - 1):
        above = found[parents[pending]]
        ready = above >= 0
        if not ready.any():
            break
        assign(pending[ready], above[ready])
        pending = pending[~ready]
    note(f"scopes nested in a circle or more than {MAX_DEPTH} deep", len(pending))
    assign(pending, np.full(len(pending), -2, np.int64))
    return found.astype(np.int32), paths


def named_threads(slots: Slots) -> dict[int, tuple[int, str]]:
    """Thread number -> (the operating system's thread id, name)."""
    rows = slots.rows(Kind.WRITER, slots.positions(Kind.WRITER))
    rows = rows[first_of_each(rows["thread"])[:MAX_THREADS]]
    return {int(row["thread"]): (int(row["tid"]), row["name"].decode(errors="replace")) for row in rows}
