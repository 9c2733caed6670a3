"""Collectives of two gloo processes, as the dispatcher hook records them: programs/collectives.py has the calls."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import wanhook
from programs import run_program, run_two_at_a_time
from wanhook.tracefile.format import CollectiveFlags
from wanhook.tracefile.frames import DTYPES

SYNC, ASYNC = CollectiveFlags(0), CollectiveFlags.ASYNC
P2P, TIMED = CollectiveFlags.P2P, CollectiveFlags.TIMED
COALESCED = CollectiveFlags.COALESCED | CollectiveFlags.GROUP  # gloo: all members in one operator


class Call(NamedTuple):
    """A recorded call without its times and numbers."""

    op: str
    bytes_in: int
    bytes_out: int
    tensors: int = 1
    dtype: str = "float32"
    peer: int = -1
    flags: CollectiveFlags = TIMED
    group: str = "0"
    role: str = ""
    unit: str = ""


def expected(rank: int) -> dict[str, list[Call]]:
    """The calls of each case on one rank. Bytes: 8 float32 make 32."""
    other = 1 - rank
    to_and_from = [Call(op, 32, 32, peer=other, flags=ASYNC | P2P) for op in ("send", "recv_")]
    exchange = Call("alltoall_base_", 32, 32)
    return {
        "all_reduce": [Call("allreduce_", 32, 32)],
        "all_reduce_async": [Call("allreduce_", 32, 32, dtype="bfloat16", flags=ASYNC | TIMED)],
        "broadcast": [Call("broadcast_", 32, 32, peer=1)],
        "reduce": [Call("reduce_", 32, 32, peer=1)],
        "all_gather": [Call("allgather_", 32, 64)],
        "all_gather_into_tensor": [Call("_allgather_base_", 24, 48, dtype="int64")],
        "reduce_scatter": [Call("reduce_scatter_", 32, 16, 2, flags=SYNC)],
        "reduce_scatter_tensor": [Call("_reduce_scatter_base_", 32, 16, flags=SYNC)],
        "all_to_all_single": [exchange],
        "all_to_all_uneven": [Call("alltoall_base_", 16, 12 if rank == 0 else 20)],
        "all_to_all": [Call("alltoall_", 32, 32, 2)],
        "gather": [Call("gather_", 32, 64 * rank, peer=1)],
        "scatter": [Call("scatter_", 64 * other, 32, 1 + other, peer=0)],
        "send_and_receive": to_and_from if rank == 0 else to_and_from[::-1],
        "receive_from_anybody": [
            to_and_from[0] if rank == 0 else Call("recv_any_source_", 32, 32, flags=ASYNC | P2P)
        ],
        "batch_of_point_to_point": to_and_from,
        "all_reduce_coalesced": [Call("allreduce_coalesced_", 24, 24, 2)],
        "coalesced_all_reduces": [
            Call("allreduce_coalesced_", 72, 72, 3, flags=COALESCED | TIMED),
            Call("allreduce_", 8, 8),
        ],
        "coalesced_all_gathers": [
            Call("allgather_into_tensor_coalesced_", 24, 48, 2, flags=ASYNC | COALESCED | TIMED)
        ],
        "coalesced_reduce_scatters": [Call("reduce_scatter_tensor_coalesced_", 40, 20, 2, flags=COALESCED)],
        "all_gather_coalesced": [Call("allgather_coalesced_", 24, 48, 2)],
        "error_in_a_coalesced_group": [Call("allreduce_", 32, 32)],
        "functional_collectives": [
            Call("allreduce_", 32, 32, flags=ASYNC | TIMED),
            Call("allgather_into_tensor_coalesced_", 32, 64, flags=ASYNC | TIMED),
            exchange._replace(flags=ASYNC | TIMED),
        ],
        "subgroups": [
            *[Call("allreduce_", 32, 32, group="1")] * 2,
            *[Call("allreduce_", 32, 32, group="2")] * rank,
            Call("broadcast_", 32, 32, peer=1, group="3"),
        ],
        "roles": [
            exchange._replace(role=role, unit=unit) for role, unit in (
                ("qkv", "block 3"), ("out", ""), ("qkv", "block 3"), ("out", "block 4"), ("qkv", ""), ("", "")
            )
        ],
        "fake_tensors": [],
        "wrong_sizes": [exchange],
        "after_the_pause": [Call("allreduce_", 32, 32)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Both programs; when they have ended, their traces."""
    directory = tmp_path_factory.mktemp("collectives")
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "WANHOOK_OUT": "run"}

    def run(rank):
        return run_program("collectives", directory, directory / "store", RANK=rank, LOCAL_RANK=rank, **variables)

    programs = run_two_at_a_time(run, ["0", "1"])
    for program in programs.values():
        assert program.returncode == 0, program.errors
    return SimpleNamespace(programs=programs, run=wanhook.load(directory / "run"))


def call_of(trace, row) -> Call:
    group = trace.groups[int(row["group"])]
    return Call(
        trace.strings[row["op"]],
        int(row["bytes_in"]),
        int(row["bytes_out"]),
        int(row["tensors"]),
        DTYPES[row["dtype"]],
        int(row["peer"]),
        CollectiveFlags(int(row["flags"])),
        group.name,
        trace.strings[row["role"]],
        trace.strings[row["unit"]],
    )


def calls_of(trace, case: str) -> list:
    """Rows of the calls inside the scope of a case."""
    names = [trace.paths[path] if path >= 0 else "" for path in trace.collectives["path"]]
    return [row for row, name in zip(trace.collectives, names, strict=True) if name == case]


def unsupported(ranks, rank: int) -> set[str]:
    return {line.split()[0] for line in ranks.programs[str(rank)].output.splitlines() if line.endswith("unsupported")}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", expected(0))
def test_call_is_recorded_as_it_was(ranks, rank, case):
    """The program itself compares the results with those of the same calls while nothing is recorded."""
    trace = ranks.run.rank(rank)
    found = [call_of(trace, row) for row in calls_of(trace, case)]
    assert found == expected(rank)[case]
    if case not in unsupported(ranks, rank):
        assert f"{case} ok" in ranks.programs[str(rank)].output.splitlines() or case == "after_the_pause"


@pytest.mark.parametrize("rank", [0, 1])
def test_traces_are_whole(ranks, rank):
    trace = ranks.run.rank(rank)
    assert ranks.run.problems == []
    assert (trace.health.state, trace.health.dropped, trace.health.damage) == ("stopped", 0, [])
    assert (trace.rank, trace.world_size) == (rank, 2)
    assert ranks.programs[str(rank)].own_lines == []


def test_ranks_agree_on_the_run(ranks):
    assert len({trace.run_id for trace in ranks.run}) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_groups_are_named_with_their_members(ranks, rank):
    groups = {group.name: group for group in ranks.run.rank(rank).groups.values()}
    assert groups["0"].description == "default_pg"
    assert groups["1"].description == "a group of both"
    assert all(group.backend == "gloo" for group in groups.values())
    for name in ("0", "1", "3"):
        assert (groups[name].rank, groups[name].size, groups[name].ranks) == (rank, 2, (0, 1))
    assert ("2" in groups) == (rank == 1)
    if rank == 1:
        assert (groups["2"].rank, groups["2"].size, groups["2"].ranks) == (0, 1, (1,))


def numbers(trace, group: str, p2p: bool) -> np.ndarray:
    """Sequence numbers of the calls in a group, in order of their begin."""
    calls = trace.collectives
    index = next(number for number, known in trace.groups.items() if known.name == group)
    return calls["sequence"][(calls["group"] == index) & (((calls["flags"] & P2P) != 0) == p2p)]


@pytest.mark.parametrize("rank", [0, 1])
def test_sequence_numbers_count_every_call_of_a_group(ranks, rank):
    """The cases ran once before the recording, and one call came while it was paused."""
    trace = ranks.run.rank(rank)
    world = numbers(trace, "0", p2p=False)
    paused = list(np.diff(world)).index(2) + 1
    assert world.tolist() == [*range(paused, 2 * paused), *range(2 * paused + 1, len(world) + paused + 1)]
    point_to_point = numbers(trace, "0", p2p=True)
    assert point_to_point.tolist() == list(range(len(point_to_point), 2 * len(point_to_point)))
    assert numbers(trace, "1", p2p=False).tolist() == [2, 3]
    assert numbers(trace, "3", p2p=False).tolist() == [1]


def test_sequence_numbers_are_the_same_on_all_ranks(ranks):
    first, second = ranks.run
    for group in ("0", "1", "3"):
        assert (numbers(first, group, p2p=False) == numbers(second, group, p2p=False)).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_times_are_in_order_and_completions_where_gloo_tells_them(ranks, rank):
    calls = ranks.run.rank(rank).collectives
    good = calls[~calls["failed"]]
    assert (good["returned"] >= good["begin"]).all()
    told = (good["flags"] & TIMED) != 0
    assert (good["completed"][told] >= good["begin"][told]).all()
    assert (good["completed"][~told] == -1).all()
    assert (calls["gpu_begin"] == -1).all()
    assert (calls["device"] == -1).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_coalesced_groups_have_numbers_of_their_own(ranks, rank):
    calls = ranks.run.rank(rank).collectives
    inside = (calls["flags"] & COALESCED) != 0
    assert (calls["coalesced"][~inside] == 0).all()
    coalesced = calls["coalesced"][inside]
    assert len(set(coalesced.tolist())) == len(coalesced) == 3
    assert (coalesced > 0).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_barriers(ranks, rank):
    trace = ranks.run.rank(rank)
    for case, op in (("barrier", "barrier"), ("monitored_barrier", "monitored_barrier_")):
        (row,) = calls_of(trace, case)
        assert trace.strings[row["op"]] == op


@pytest.mark.parametrize("rank", [0, 1])
def test_barriers_move_nothing_and_are_waited_for(ranks, rank):
    trace = ranks.run.rank(rank)
    for case in ("barrier", "monitored_barrier"):
        (row,) = calls_of(trace, case)
        assert (int(row["bytes_in"]), int(row["bytes_out"])) == (0, 0)
        assert not row["flags"] & ASYNC


@pytest.mark.parametrize("rank", [0, 1])
def test_call_of_another_thread_belongs_to_no_scope(ranks, rank):
    calls = ranks.run.rank(rank).collectives
    (stranger,) = calls[calls["path"] < 0]
    assert stranger["scope"] == 0
    assert stranger["thread"] not in calls["thread"][calls["path"] >= 0]


@pytest.mark.parametrize("rank", [0, 1])
def test_call_that_throws_is_marked_failed(ranks, rank):
    """The list form of all_to_all, where this torch's gloo lacks it."""
    trace = ranks.run.rank(rank)
    failed = trace.collectives[trace.collectives["failed"] & (trace.collectives["returned"] < 0)]
    names = [trace.paths[path] for path in failed["path"]]
    assert set(names) == unsupported(ranks, rank)


def test_work_that_fails_later_is_marked_failed(ranks):
    for rank in (0, 1):
        (row,) = calls_of(ranks.run.rank(rank), "wrong_sizes")
        assert row["failed"]
    late = calls_of(ranks.run.rank(0), "late_rank")
    assert [bool(row["failed"]) for row in late] == [True, False]
    assert late[0]["completed"] - late[0]["begin"] > 300_000_000
