"""Coalesced groups on torch's fake backend: programs/coalesced.py has the calls. Over NCCL: tests/gpu."""

import pytest

import wanhook
from programs import run_program
from wanhook.analysis.collectives import COALESCED_WHY, collective_table
from wanhook.tracefile.format import CollectiveFlags

ASYNC, P2P, TIMED = CollectiveFlags.ASYNC, CollectiveFlags.P2P, CollectiveFlags.TIMED
MEMBER = CollectiveFlags.COALESCED
GROUP = CollectiveFlags.COALESCED | CollectiveFlags.GROUP

BROADCAST = ("broadcast_", 1, MEMBER)
EXPECTED = {
    "point_to_point": [
        ("send", 1, MEMBER | ASYNC | P2P),
        ("recv_", 1, MEMBER | ASYNC | P2P),
        ("send", 1, MEMBER | ASYNC | P2P),
        ("coalesced", 3, GROUP | ASYNC | P2P | TIMED),
    ],
    "mixed": [BROADCAST, ("send", 1, MEMBER | ASYNC | P2P), ("coalesced", 2, GROUP | ASYNC | TIMED)],
    "one_operator": [("broadcast_", 1, TIMED), ("allreduce_coalesced_", 2, GROUP | TIMED)],
    "without_manager": [BROADCAST, ("coalesced", 1, GROUP | TIMED), ("broadcast_", 1, TIMED)],
    "nested": [BROADCAST, BROADCAST, BROADCAST, ("coalesced", 3, GROUP | TIMED)],
    "empty": [],
    "left_by_an_exception": [BROADCAST, ("broadcast_", 1, TIMED)],
    "error_at_the_end": [BROADCAST, ("coalesced", 1, GROUP | TIMED)],
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    program = run_program("coalesced", tmp_path_factory.mktemp("coalesced"))
    assert program.returncode == 0, program.errors
    trace = wanhook.load(program.directory / "run").rank(0)
    assert (trace.health.state, trace.health.dropped, trace.health.damage) == ("stopped", 0, [])
    return trace


def rows_of(trace, case: str) -> list:
    return [row for row in trace.collectives if trace.paths[row["path"]] == case]


def call_of(trace, row) -> tuple[str, int, CollectiveFlags]:
    op = trace.strings[row["op"]]
    return op, int(row["tensors"]), CollectiveFlags(int(row["flags"]))


@pytest.mark.parametrize("case", EXPECTED)
def test_a_group_is_one_record_behind_its_members(trace, case):
    """Members are counted and without a time; the number of their group is on each of them."""
    rows = rows_of(trace, case)
    # Whether the fake backend's Work has a future is torch's business.
    known = [(op, count, flags & ~TIMED) for op, count, flags in (call_of(trace, row) for row in rows)]
    assert known == [(op, count, flags & ~TIMED) for op, count, flags in EXPECTED[case]]
    inside = [row for row in rows if row["flags"] & MEMBER]
    assert len({int(row["coalesced"]) for row in inside}) <= 1 or case == "nested"
    assert all(row["coalesced"] > 0 for row in inside)
    assert all(row["coalesced"] == 0 for row in rows if not row["flags"] & MEMBER)


def test_groups_have_numbers_of_their_own(trace):
    numbers = [int(row["coalesced"]) for row in trace.collectives if row["flags"] & CollectiveFlags.GROUP]
    assert len(set(numbers)) == len(numbers) == 8


def test_only_the_group_has_a_time(trace):
    for row in trace.collectives:
        op, _, flags = call_of(trace, row)
        if flags & GROUP == MEMBER:
            assert not flags & TIMED
            assert row["completed"] == -1
        if flags & TIMED and not row["failed"]:
            assert row["completed"] >= row["begin"], op
    timed = [row for row in trace.collectives if trace.strings[row["op"]] == "coalesced" and row["completed"] >= 0]
    assert len(timed) >= 6, "no group's Work told its completion"


def test_a_group_begins_when_it_is_launched(trace):
    *members, group = rows_of(trace, "synchronous")[:3]
    assert all(row["returned"] <= group["begin"] for row in members)
    assert group["returned"] >= group["begin"]


def test_the_bytes_are_the_sums_of_the_members(trace):
    *members, group = rows_of(trace, "point_to_point")
    assert [int(row["bytes_in"]) for row in members] == [32, 16, 8]
    assert int(group["bytes_in"]) == 32 + 16 + 8
    assert int(group["bytes_out"]) == sum(int(row["bytes_out"]) for row in members)
    assert group["dtype"] == 255


def test_the_role_and_unit_of_the_launch(trace):
    found = {(trace.strings[row["role"]], trace.strings[row["unit"]]) for row in rows_of(trace, "mixed")}
    assert found == {("tagged", "its unit")}


def test_sequence_numbers_are_apart_from_those_of_calls(trace):
    """One group came before the recording; ending a group without a member counts as nothing."""
    calls = [row for row in trace.collectives if trace.strings[row["op"]] != "coalesced"]
    groups = [int(row["sequence"]) for row in trace.collectives if trace.strings[row["op"]] == "coalesced"]
    assert groups == list(range(1, 1 + len(groups)))
    ordinary = [int(row["sequence"]) for row in calls if not row["flags"] & P2P]
    assert ordinary == list(range(2, 2 + len(ordinary)))


def test_a_failed_launch_is_marked(trace):
    assert [bool(row["failed"]) for row in rows_of(trace, "error_at_the_end")] == [False, True]


def test_the_report_counts_members_and_shows_the_time_once(trace):
    rows = {(row.op, row.role): row for row in collective_table([trace])}
    assert (rows["coalesced", ""].groups, rows["coalesced", ""].members) == (6, 2 + 3 + 1 + 3 + 1 + 2)
    assert (rows["coalesced", "tagged"].groups, rows["coalesced", "tagged"].members) == (1, 2)
    assert (rows["all_reduce", ""].groups, rows["all_reduce", ""].members) == (1, 2)
    assert rows["send", ""].untimed_why == {COALESCED_WHY: 2}
    assert rows["broadcast", ""].untimed_why[COALESCED_WHY] == 2 + 1 + 3 + 1 + 1 + 2
