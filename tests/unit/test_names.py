"""What things are called: strings, meta, arguments, groups, paths of scopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_trace import TraceBuilder
from wanhook.tracefile import names
from wanhook.tracefile.format import Kind
from wanhook.tracefile.model import Trace
from wanhook.tracefile.names import Group, build_paths


@pytest.fixture
def read(tmp_path):
    def read(builder: TraceBuilder) -> Trace:
        return Trace(builder.save(tmp_path / "rank00000-1-0.wanhook"))

    return read


# Paths.

NAMES = ["", "a", "b", "c"]


def parents_of(links: list[int]) -> np.ndarray:
    return np.array([link if link < len(links) else -1 for link in links], np.int64)


@given(st.lists(st.tuples(st.integers(-1, 40), st.integers(1, 3)), max_size=40))
def test_every_scope_gets_a_path_whatever_the_parents(links):
    parents = parents_of([parent for parent, _ in links])
    named = np.array([name for _, name in links], np.uint32)
    found, paths = build_paths(parents, named, NAMES, 1 << 20, lambda what, count: None)

    def expected(row: int) -> str | None:
        parts, seen = [], set()
        while row >= 0:
            if row in seen:
                return None
            seen.add(row)
            parts.append(NAMES[named[row]])
            row = int(parents[row])
        return "/".join(reversed(parts))

    assert len(paths) == len(set(paths))
    for row, index in enumerate(found):
        assert paths[index] == (expected(row) or f"…/{NAMES[named[row]]}")


@given(st.integers(1, 300))
def test_a_chain_is_followed_to_the_limit(length):
    noted = []
    parents = np.arange(length) - 1
    found, paths = build_paths(
        parents, np.ones(length, np.uint32), NAMES, 1 << 20, lambda what, count: noted.append(count)
    )
    assert paths[found[0]] == "a"
    assert noted == [max(length - names.MAX_DEPTH, 0)]
    assert paths[found[min(length, names.MAX_DEPTH) - 1]].count("/") == min(length, names.MAX_DEPTH) - 1
    if length > names.MAX_DEPTH:
        assert paths[found[-1]] == "…/a"


def test_paths_stay_within_their_budget():
    count = 10_000
    strings = ["", *(f"{number}" * 100 for number in range(count))]
    parents = np.full(count, 0)
    parents[0] = -1
    found, paths = build_paths(parents, np.arange(1, count + 1), strings, 100_000, lambda what, count: None)
    assert sum(len(path) for path in paths) < 100_000 + 3 * count
    assert set(paths[found[-1]]) == {"…"}
    assert max(len(path) for path in paths) <= 2 * names.PATH_NAME + 1


def test_a_parent_that_is_not_there_makes_a_root(read):
    builder = TraceBuilder()
    builder.scope("a", 0, 1, parent=99)
    circle = builder.scope("b", 2, 3, parent=2)
    trace = read(builder)
    assert circle == 2
    assert trace.paths == ["a", "…/b"]
    assert trace.health.damage == [
        "1 scopes whose parent is not in the file",
        "1 scopes nested in a circle or more than 64 deep",
    ]


# Names and arguments.


def test_unknown_string_ids_read_as_question_marks(read):
    builder = TraceBuilder()
    builder.string("known")
    for name, at in ((1, 0), (7, 1), (0, 2), (65_535, 3), (65_536, 4), (0xFFFFFFFF, 5)):
        builder.record(Kind.MARK, name=name, tick=builder.tick(at))
    trace = read(builder)
    assert [trace.strings[name] for name in trace.marks["name"]] == ["known", "?7", "", "?65535", "?65536", "?65536"]


def test_strings_first_wins_and_bad_ones_are_noted(read):
    builder = TraceBuilder()
    builder.string("first")
    builder.record(Kind.STRING, b"second", id=1)
    builder.record(Kind.STRING, b"zero", id=0)
    builder.record(Kind.STRING, b"far", id=65_536)
    builder.record(Kind.STRING, b"\xff\xfe ok", id=2)
    builder.record(Kind.STRING, b"x" * 2_000, id=3)
    trace = read(builder)
    assert trace.strings == ["", "first", "\ufffd\ufffd ok", "x" * names.MAX_NAME_BYTES]
    assert trace.health.damage == [
        "1 strings with an id that came before",
        "2 strings with an id out of range",
        "1 strings longer than 1024 bytes, cut",
    ]


def test_strings_may_come_after_their_use(read):
    builder = TraceBuilder()
    builder.record(Kind.MARK, name=1, tick=builder.tick(5))
    builder.string("late")
    trace = read(builder)
    assert trace.strings[trace.marks["name"][0]] == "late"


def test_arguments_are_parsed_when_asked_for(read):
    builder = TraceBuilder()
    builder.mark("first", 10, args={"x": "ü"})
    builder.mark("none", 5)
    scope = builder.scope("s", 0, 1)
    for payload in (b"{", b"[1]", b"\xff", b"nul"):
        builder.record(Kind.MARK, payload, tick=builder.tick(20))
    trace = read(builder)
    assert trace.mark_args == {1: {"x": "ü"}, 2: {}, 3: {}, 4: {}, 5: {}}
    assert len(trace.mark_args) == 5
    assert scope not in trace.scope_args
    assert trace.scope_args.get(scope, {}) == {}


def test_meta_objects_are_merged(read):
    builder = TraceBuilder(rank=None, world_size=None)
    builder.meta({"rank": {"rank": 3, "world_size": 8}, "notes": ["a", "b"], "file_system": {"type": "ext4"}})
    builder.meta({"notes": ["b", "c"], "file_system": "gone"})
    for broken in (b"{]", b"3", b'{"a": "\xff"}', b"[" * 2_000, b"x" * 3_000):
        builder.record(Kind.META, broken)
    trace = read(builder)
    assert (trace.rank, trace.world_size) == (3, 8)
    assert trace.meta["rank"]["local_rank"] is None
    assert trace.meta["notes"] == ["a", "b", "c"]
    assert trace.meta["file_system"] == "gone"
    assert trace.health.damage == ["5 meta records that are no JSON object, or too long"]


def test_absurd_meta_lists_cost_no_time_and_no_recursion(read):
    builder = TraceBuilder(chunk_bytes=1 << 20)
    for number in range(3):
        builder.meta({"notes": [f"{number}-{entry}" for entry in range(30_000)], "numbers": list(range(30_000))})
        builder.record(Kind.META, b'{"deep": ' + b"[" * 900 + b"]" * 900 + b"}")
    trace = read(builder)
    assert len(trace.meta["notes"]) == names.MAX_LIST
    assert trace.meta["numbers"][-1] == 29_999


def test_meta_of_the_wrong_shape_is_as_good_as_none(read):
    builder = TraceBuilder()
    builder.meta(
        {"rank": {"rank": "0", "world_size": -3}, "run": {"id": 5}, "device": 7, "groups": [], "process": None}
    )
    trace = read(builder)
    assert (trace.rank, trace.world_size, trace.run_id, trace.device_type) == (None, None, "", "")


def test_meta_is_taken_up_to_its_limit(read):
    builder = TraceBuilder(chunk_bytes=1 << 20)
    for number in range(4):
        builder.meta({f"k{number}": "x" * 700_000})
    trace = read(builder)
    assert sorted(key for key in trace.meta if key.startswith("k")) == ["k0", "k1"]


def test_threads_have_names(read):
    builder = TraceBuilder()
    builder.mark("m", 0, thread=5)
    assert read(builder).threads == {1: (1001, "thread-1"), 5: (1005, "thread-5")}


def test_every_group_of_a_collective_is_there(read):
    builder = TraceBuilder(meta={"groups": {"late": {"ranks": [1, 2], "backend": "gloo", "description": 5}}})
    builder.record(Kind.GROUP, b"", group=2, name=builder.string("late"), rank=0, size=2)
    builder.record(Kind.GROUP, b"", group=2, name=builder.string("again"))
    builder.collective("barrier", 0, group=9)
    builder.collective("barrier", 1, group=0)
    trace = read(builder)
    assert trace.groups == {0: Group(""), 2: Group("late", "", 0, 2, (1, 2)), 9: Group("?9")}
