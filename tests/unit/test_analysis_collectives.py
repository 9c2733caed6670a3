import numpy as np
import pytest

from made_trace import TraceBuilder
from wanhook.analysis import collectives as analysis
from wanhook.analysis.bandwidth import bus_factor, operation, payload
from wanhook.analysis.collectives import collective_table
from wanhook.tracefile.format import CollectiveFlags
from wanhook.tracefile.model import load

US = 1_000
MIB = 1 << 20


def table(tmp_path, *builders):
    for number, builder in enumerate(builders):
        builder.save(tmp_path / f"{number}.wanhook")
    return collective_table(load(tmp_path).traces)


def test_times_and_bandwidths_leave_the_first_call_out(tmp_path):
    builder = TraceBuilder()
    builder.group("0", (0, 1, 2, 3))
    for number, length in enumerate([900, 100, 200, 300]):
        begin = number * 1000 * US
        builder.collective("alltoall_base_", begin, gpu=(begin, begin + length * US), role="qkv", bytes_in=6 * MIB)
    (row,) = table(tmp_path, builder)
    assert (row.op, row.c10d_ops, row.role, row.clock) == ("all_to_all", ["alltoall_base_"], "qkv", "gpu")
    assert (row.calls, row.calls_by_rank, row.bytes_in, row.size_bytes) == (4, {0: 4}, 24 * MIB, 6 * MIB)
    assert (row.time.total_ns, row.time.first_ns, row.time.mean_ns) == (1500 * US, 900 * US, 200 * US)
    assert (row.time.p50_ns, row.time.max_ns) == (200 * US, 300 * US)
    assert row.algbw_bytes_per_s == pytest.approx(18 * MIB / 600e-6)
    assert row.busbw_bytes_per_s == pytest.approx(18 * MIB / 600e-6 * 3 / 4)


def test_first_calls_are_those_of_a_process_whichever_recording_saw_them(tmp_path):
    builders = [TraceBuilder(), TraceBuilder(life=1), TraceBuilder(pid=4243)]
    for builder, (first, second) in zip(builders, [(900, 100), (300, 200), (700, 0)], strict=True):
        builder.group("0", (0, 1))
        builder.collective("alltoall_base_", 0, gpu=(0, first * US), bytes_in=MIB)
        if second:
            builder.collective("alltoall_base_", 1000 * US, gpu=(1000 * US, (1000 + second) * US), bytes_in=MIB)
    (row,) = table(tmp_path, *builders)
    assert (row.calls_by_rank, row.time.first_ns, row.time.mean_ns) == ({0: 5}, 800 * US, 200 * US)
    assert row.algbw_bytes_per_s == pytest.approx(3 * MIB / 600e-6)


# op, bytes in and out of one rank of 4, what nccl-tests calls the size, busbw / algbw
DEFINITIONS = [
    ("alltoall_", 64, 64, 64, 0.75),
    ("alltoall_base_", 64, 64, 64, 0.75),
    ("allgather_", 16, 64, 64, 0.75),
    ("_allgather_base_", 16, 64, 64, 0.75),
    ("allgather_into_tensor_coalesced_", 16, 64, 64, 0.75),
    ("_reduce_scatter_base_", 64, 16, 64, 0.75),
    ("reduce_scatter_", 64, 16, 64, 0.75),
    ("allreduce_", 64, 64, 64, 1.5),
    ("broadcast_", 64, 0, 64, 1.0),
    ("broadcast_", 0, 64, 64, 1.0),
    ("reduce_", 64, 0, 64, 1.0),
    ("gather_", 16, 0, 64, 0.75),
    ("scatter_", 0, 16, 64, 0.75),
    ("send", 64, 0, 64, 1.0),
    ("recv_", 0, 64, 64, 1.0),
    ("c10d::alltoall_", 64, 64, 64, 0.75),
]


@pytest.mark.parametrize(("op", "bytes_in", "bytes_out", "size", "factor"), DEFINITIONS)
def test_sizes_and_factors_are_those_of_nccl_tests(op, bytes_in, bytes_out, size, factor):
    found = operation(op)
    assert payload(found, np.array([bytes_in]), np.array([bytes_out]), 4).tolist() == [size]
    assert bus_factor(found, 4) == factor


@pytest.mark.parametrize("op", ["barrier", "monitored_barrier_", "an_op_of_tomorrow_"])
def test_ops_without_payload_have_times_and_no_bandwidth(tmp_path, op):
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    for begin in (0, 1000 * US):
        builder.collective(op, begin, gpu=(begin, begin + 50 * US))
    (row,) = table(tmp_path, builder)
    assert row.time.mean_ns == 50 * US
    assert (row.size_bytes, row.algbw_bytes_per_s, row.busbw_bytes_per_s) == (None, None, None)


def test_host_backends_are_timed_from_call_to_completion(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.group("0", (0, 1), backend="gloo")
    for begin in (0, 1000 * US):
        builder.collective("allreduce_", begin, returned=begin + 5 * US, completed=begin + 80 * US, bytes_in=MIB)
    (row,) = table(tmp_path, builder)
    assert (row.clock, row.time.mean_ns, row.untimed) == ("host", 80 * US, 0)
    assert row.busbw_bytes_per_s == row.algbw_bytes_per_s == pytest.approx(MIB / 80e-6)


def test_untimed_calls_are_counted_by_reason(tmp_path):
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    kinds = CollectiveFlags
    flags = [kinds.ASYNC, kinds.ASYNC, kinds.ASYNC | kinds.CAPTURED, kinds.COALESCED, kinds.TIMED, kinds.P2P]
    flags.append(kinds.COALESCED | kinds.GROUP | kinds.ASYNC)
    for number, flag in enumerate(flags):
        builder.collective("send", number * US, returned=number * US + 1, flags=flag)
    (row,) = table(tmp_path, builder)
    assert (row.calls, row.untimed, row.time.count, row.clock) == (7, 7, 0, None)
    assert row.untimed_why == {
        analysis.CAPTURED_WHY: 1,
        analysis.COALESCED_WHY: 1,
        analysis.UNRESOLVED_WHY: 1,
        analysis.GROUP_WHY: 1,
        analysis.ASYNC_WHY: 2,
        analysis.NO_COMPLETION_WHY: 1,
    }
    assert (row.asynchronous, row.captured, row.coalesced, row.p2p) == (4, 1, 2, 1)


def test_asynchronous_calls_of_host_backends_lack_a_completion(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.group("0", (0, 1), backend="gloo")
    builder.collective("send", 0, returned=1, flags=CollectiveFlags.ASYNC | CollectiveFlags.P2P)
    (row,) = table(tmp_path, builder)
    assert row.untimed_why == {analysis.NO_COMPLETION_WHY: 1}


def test_a_coalesced_group_has_the_time_and_its_members_the_bytes(tmp_path):
    """The time of a group is in one row, however many members it has."""
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    member, group = CollectiveFlags.COALESCED, CollectiveFlags.COALESCED | CollectiveFlags.GROUP
    for number in (1, 2):
        for op in ("send", "recv_"):
            builder.collective(op, number * US, returned=number * US, flags=member, coalesced=number, bytes_in=MIB)
        at = number * 100 * US
        builder.collective("coalesced", at, gpu=(at, at + 30 * US), flags=group, tensors=2, coalesced=number)
    rows = {row.op: row for row in table(tmp_path, builder)}
    assert {op: row.time.total_ns for op, row in rows.items()} == {"coalesced": 60 * US, "send": 0, "recv": 0}
    assert (rows["coalesced"].groups, rows["coalesced"].members, rows["coalesced"].size_bytes) == (2, 4, None)
    assert (rows["send"].groups, rows["send"].members, rows["send"].bytes_in) == (0, 0, 2 * MIB)
    assert rows["send"].untimed_why == {analysis.COALESCED_WHY: 2}


def test_groups_alike_on_disjoint_ranks_are_one_row(tmp_path):
    builders = []
    for rank in range(4):
        builder = TraceBuilder(rank=rank, world_size=4)
        builder.group("0", (0, 1, 2, 3), description="default_pg")
        first = rank // 2 * 2
        pair = builder.group(f"{1 + rank // 2}", (first, first + 1), description="ulysses")
        builder.collective("alltoall_", 0, gpu=(0, 10 * US), group=pair, bytes_in=8)
        builder.collective("allreduce_", 20 * US, gpu=(20 * US, 30 * US), group=1, bytes_in=8)
        builders.append(builder)
    rows = table(tmp_path, *builders)
    assert [(row.op, row.group.label, row.group.size, row.group.names) for row in rows] == [
        ("all_reduce", "default_pg", 4, ("0",)),
        ("all_to_all", "ulysses", 2, ("1", "2")),
    ]
    assert rows[1].calls_by_rank == {0: 1, 1: 1, 2: 1, 3: 1}
    assert rows[1].group.members == ((0, 1), (2, 3))


def test_groups_that_share_a_rank_stay_apart(tmp_path):
    builder = TraceBuilder()
    for name in ("1", "2"):
        group = builder.group(name, (0, 1))
        builder.collective("alltoall_", 0, gpu=(0, 10 * US), group=group)
    assert [row.group.label for row in table(tmp_path, builder)] == ["group 1", "group 2"]


def test_group_that_the_file_does_not_describe_gives_times_without_bandwidth(tmp_path):
    builder = TraceBuilder()
    for begin in (0, 1000 * US):
        builder.collective("alltoall_", begin, gpu=(begin, begin + 50 * US), group=7, bytes_in=8)
    (row,) = table(tmp_path, builder)
    assert (row.time.mean_ns, row.size_bytes, row.busbw_bytes_per_s) == (50 * US, None, None)


def test_roles_and_both_forms_of_an_op(tmp_path):
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    for number, (op, role) in enumerate([("alltoall_", "qkv"), ("alltoall_base_", "qkv"), ("alltoall_", "out")]):
        builder.collective(op, number * US, gpu=(number * US, (number + 1) * US), role=role)
    rows = {row.role: row for row in table(tmp_path, builder)}
    assert rows["qkv"].c10d_ops == ["alltoall_", "alltoall_base_"]
    assert (rows["qkv"].calls, rows["out"].calls) == (2, 1)


def test_no_collectives_no_rows(tmp_path):
    assert table(tmp_path, TraceBuilder()) == []
