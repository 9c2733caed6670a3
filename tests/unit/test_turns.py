"""When the turn of each collective of a communicator came."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_trace import TraceBuilder
from wanhook.analysis.collectives import collective_table
from wanhook.analysis.exposure import exposed_intervals
from wanhook.analysis.span_classes import CROWDED_END, PAIR, classify, correction
from wanhook.analysis.turns import LAUNCH, turns, waited
from wanhook.tracefile.format import CollectiveFlags, SpanClass
from wanhook.tracefile.model import load

US, MS = 1_000, 1_000_000
COMPUTE, SIDE = 0, 9


@pytest.fixture
def builder():
    made = TraceBuilder()
    made.group("0", (0, 1))
    return made


def loaded(builder, tmp_path):
    return load(builder.save(tmp_path / "0.wanhook")).traces[0]


def call(builder, at, begin, end, stream=COMPUTE, op="alltoall_", **fields):
    """Called at `at`, ns; on the GPU from begin to end. The host is far ahead."""
    fields = {"bytes_in": 64, "returned": at + US} | fields
    builder.collective(op, at, gpu=(begin, end), stream=stream, **fields)


def gather(builder, at, begin, end, **fields):
    call(builder, at, begin, end, **({"stream": SIDE, "op": "_allgather_base_", "role": "fsdp"} | fields))


def turns_of(trace):
    """ns since the recording began."""
    return (turns(trace).turn - trace.header["start_monotonic"]).tolist()


def test_a_prefetched_all_gather_waits_for_the_all_to_all_before_it(builder, tmp_path):
    call(builder, 10 * US, MS, 2 * MS, role="out")
    gather(builder, 20 * US, US, 3 * MS)
    trace = loaded(builder, tmp_path)
    found = turns(trace)
    assert turns_of(trace) == [MS, 2 * MS]
    assert found.behind.tolist() == [-1, 0]
    assert waited(trace, found).tolist() == [0, 2 * MS - US]


def test_a_call_that_was_issued_later_holds_nobody_up(builder, tmp_path):
    gather(builder, 10 * US, MS, 3 * MS)
    call(builder, 20 * US, 2 * MS, 4 * MS)
    trace = loaded(builder, tmp_path)
    assert turns_of(trace) == [MS, 3 * MS]
    assert turns(trace).behind.tolist() == [-1, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {"group": 2},
        {"flags": CollectiveFlags.P2P},
        {"flags": CollectiveFlags.COALESCED},
        {"flags": CollectiveFlags.COALESCED | CollectiveFlags.GROUP},
        {"bytes_in": 0},
        {"stream": SIDE},
        {"returned": None},
        {"returned": 2 * MS - LAUNCH},  # its end event can have come long after its kernel
    ],
)
def test_what_tells_no_end_gives_no_turn(builder, tmp_path, fields):
    builder.group("1", (0, 1))
    call(builder, 10 * US, MS, 2 * MS, **fields)
    gather(builder, 20 * US, US, 3 * MS)
    trace = loaded(builder, tmp_path)
    assert turns_of(trace) == [MS, US]
    assert turns(trace).behind.tolist() == [-1, -1]


@pytest.mark.parametrize(("ranks", "backend"), [((0,), "nccl"), ((0, 1), "gloo")])
def test_groups_whose_calls_nccl_does_not_launch_in_turn(tmp_path, ranks, backend):
    builder = TraceBuilder()
    builder.group("0", ranks, backend=backend)
    call(builder, 10 * US, MS, 2 * MS)
    gather(builder, 20 * US, US, 3 * MS)
    assert turns(loaded(builder, tmp_path)).behind.tolist() == [-1, -1]


def test_an_untimed_call_is_looked_past(builder, tmp_path):
    call(builder, 10 * US, MS, 2 * MS)
    builder.collective("alltoall_", 15 * US, returned=16 * US, bytes_in=64, flags=CollectiveFlags.CAPTURED)
    gather(builder, 20 * US, US, 3 * MS)
    assert turns(loaded(builder, tmp_path)).behind.tolist() == [-1, -1, 0]


def test_asynchronous_calls_take_turns_too(builder, tmp_path):
    call(builder, 10 * US, MS, 2 * MS)
    call(builder, 20 * US, US, 3 * MS, flags=CollectiveFlags.ASYNC)
    assert turns_of(loaded(builder, tmp_path)) == [MS, 2 * MS]


def test_calls_of_one_communicator_are_not_beside_one_another(builder, tmp_path):
    """What waits for its turn is not at work; nothing is taken off a time that begins with the turn."""
    for at in (1, 11):
        call(builder, at * 10 * US, at * MS, (at + 1) * MS)
        gather(builder, at * 10 * US + US, at * MS - US, (at + 3) * MS, stream=COMPUTE + 5)
    builder.scope("side", 0, 10, gpu=(0, 10), stream=COMPUTE + 5)
    trace = loaded(builder, tmp_path)
    classify(trace)
    assert trace.collectives["span_class"].tolist() == [SpanClass.BUSY_ALONE] * 4
    assert correction(trace).tolist() == [PAIR, 0, PAIR, 0]


def test_bounds_of_a_call_that_waited_go_from_its_begin_to_its_turn_and_beyond(builder, tmp_path):
    call(builder, 10 * US, MS, 2 * MS)
    gather(builder, 20 * US, US, 3 * MS)
    builder.scope("block", 0, 10, gpu=(0, 5 * MS), stream=COMPUTE)
    trace = loaded(builder, tmp_path)
    classify(trace)
    late = trace.collectives[1]
    assert (late["span_class"], late["begin_slack"], late["end_slack"]) == (
        SpanClass.OVERLAPPED, 3 * MS - US, CROWDED_END)  # fmt: skip


def test_the_table_tells_the_times_from_the_turns_and_who_was_before(builder, tmp_path):
    call(builder, 10 * US, MS, 2 * MS, role="out")
    gather(builder, 20 * US, US, 3 * MS)
    call(builder, 30 * US, 4 * MS, 5 * MS, role="qkv")
    gather(builder, 40 * US, 4 * MS, 7 * MS)
    rows = {row.op: row for row in collective_table([loaded(builder, tmp_path)]) if row.role in ("fsdp", "out")}
    row = rows["all_gather"]
    assert (row.time.total_ns, row.stream.total_ns) == (3 * MS, 6 * MS - US)
    assert (row.queued, row.queued_ns) == (2, 3 * MS - US)
    assert row.queued_behind == {"all_to_all out": 2 * MS - US, "all_to_all qkv": MS}
    assert (rows["all_to_all"].queued, rows["all_to_all"].queued_behind) == (0, {})


def test_a_compute_stream_stands_still_while_its_call_waits_for_its_turn(builder, tmp_path):
    builder.scope("fsdp wait", 0, 10, gpu=(0, 10), stream=COMPUTE, type="wait")
    gather(builder, 10 * US, MS, 3 * MS)
    call(builder, 20 * US, 2 * MS, 4 * MS)
    begin, end = exposed_intervals(loaded(builder, tmp_path))
    assert (end - begin).tolist() == [0, 2 * MS]


def test_a_wait_during_a_queue_lasts_for_the_call_that_is_on(builder, tmp_path):
    builder.scope("fsdp wait", 0, 10, gpu=(MS, 6 * MS), stream=COMPUTE, type="wait")
    call(builder, 10 * US, 2 * MS, 4 * MS, stream=11, op="_reduce_scatter_base_")
    gather(builder, 20 * US, US, 6 * MS)
    begin, end = exposed_intervals(loaded(builder, tmp_path))
    assert (end - begin).tolist() == [2 * MS, 2 * MS]


CALLS = st.lists(
    st.tuples(
        st.integers(0, 50), st.integers(0, 200), st.integers(0, 100), st.sampled_from([0, 9, 11]),
        st.sampled_from([0, CollectiveFlags.ASYNC, CollectiveFlags.P2P]), st.sampled_from([1, 2]), st.booleans(),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@given(made=CALLS, seed=st.integers(0, 1000))
def test_turns_are_inside_their_intervals_whatever_the_order_of_the_rows(tmp_path_factory, made, seed):
    builder = TraceBuilder()
    for name in "01":
        builder.group(name, (0, 1))
    for at, begin, length, stream, flags, group, returned in made:
        call(builder, at * US, (100 + begin) * US, (100 + begin + length) * US, stream, flags=flags, group=group,
             returned=at * US + US if returned else None)  # fmt: skip
    trace = loaded(builder, tmp_path_factory.mktemp("made"))
    calls, found = trace.collectives.copy(), turns(trace)
    held = found.behind >= 0
    assert ((found.turn >= calls["gpu_begin"]) & (found.turn <= calls["gpu_end"])).all()
    assert (held == (found.turn > calls["gpu_begin"]))[calls["gpu_end"] > calls["gpu_begin"]].all()
    before = calls[found.behind[held]]
    assert (before["group"] == calls["group"][held]).all()
    assert (before["begin"] <= calls["begin"][held]).all()
    assert (found.turn[held] == np.minimum(before["gpu_end"], calls["gpu_end"][held])).all()
    mixed = np.random.default_rng(seed).permutation(len(calls))
    trace.collectives = calls[mixed]
    again = turns(trace)
    assert (again.turn == found.turn[mixed]).all()
