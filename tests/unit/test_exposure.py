"""What is exposed of each collective, from made-up times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_trace import TraceBuilder
from wanhook.analysis import intervals
from wanhook.analysis.exposed_table import exposure
from wanhook.analysis.exposure import exposed_intervals, waited_for
from wanhook.analysis.findings import look_at
from wanhook.analysis.waits import wait_table
from wanhook.tracefile.format import CollectiveFlags
from wanhook.tracefile.model import load

US = 1_000
COMPUTE, SIDE, OTHER = 7, 9, 11
ROLE = {"role": "fsdp", "stream": SIDE}


def times(*pairs):
    return np.array(pairs, np.int64).reshape(-1, 2)


# Which wait, and which part -----------------------------------------------------------------------------------------

CASES = {
    "ends in the wait": ([(10, 30)], [(20, 40)], [(20, 30)]),
    "fills the wait": ([(10, 40)], [(20, 40)], [(20, 40)]),
    "inside the wait": ([(22, 28)], [(20, 40)], [(22, 28)]),
    "is over before the wait": ([(10, 20)], [(20, 40)], [(0, 0)]),
    "goes on behind the release": ([(10, 60)], [(20, 40)], [(0, 0)]),
    "is waited for by the second wait alone": ([(10, 60)], [(20, 40), (50, 60)], [(50, 60)]),
    "one behind the other on a stream": ([(10, 25), (25, 40)], [(20, 40)], [(20, 25), (25, 40)]),
    "the last to end has the moment": ([(10, 30), (15, 40)], [(20, 40)], [(20, 20), (20, 40)]),
    "what the last one leaves": ([(10, 38), (30, 40)], [(20, 40)], [(20, 30), (30, 40)]),
    "three": ([(10, 36), (25, 38), (30, 40)], [(20, 40)], [(20, 25), (25, 30), (30, 40)]),
    "no wait": ([(10, 30)], [], [(0, 0)]),
}


@pytest.mark.parametrize(("calls", "waits", "expected"), CASES.values(), ids=CASES)
def test_part_that_a_wait_lasts_for(calls, waits, expected):
    calls = times(*calls)
    begin, end = waited_for(calls[:, 0], calls[:, 1], times(*waits), slack=0)
    assert list(zip(begin.tolist(), end.tolist(), strict=True)) == expected


def test_end_just_behind_the_release_is_the_clocks():
    calls = times((10, 45), (10, 46))
    begin, end = waited_for(calls[:1, 0], calls[:1, 1], times((20, 40)), slack=5)
    assert (begin[0], end[0]) == (20, 40)
    begin, end = waited_for(calls[1:, 0], calls[1:, 1], times((20, 40)), slack=5)
    assert begin[0] == end[0]


EDGE = 40
SPANS = st.lists(st.tuples(st.integers(0, EDGE), st.integers(0, EDGE)), max_size=10)


@given(SPANS, SPANS)
def test_each_moment_of_a_wait_belongs_to_the_collective_that_ends_last(calls, waits):
    calls, waits = times(*[(begin, max(begin, end)) for begin, end in calls]), intervals.union(times(*waits))
    begin, end = waited_for(calls[:, 0], calls[:, 1], waits, slack=0)
    found = [set(range(*part)) for part in zip(begin.tolist(), end.tolist(), strict=True)]
    for wait in waits.tolist():
        ended = [at for at, (_, stop) in enumerate(calls.tolist()) if wait[0] < stop <= wait[1]]
        for moment in range(*wait):
            on = [at for at in ended if calls[at, 0] <= moment < calls[at, 1]]
            owners = [at for at, part in enumerate(found) if moment in part]
            last = max((calls[at, 1] for at in on), default=None)
            assert [calls[at, 1] for at in owners] == ([last] if on else [])
            assert set(owners) <= set(on)
    outside = set().union(*found) - {moment for wait in waits.tolist() for moment in range(*wait)}
    assert outside == set()


@given(SPANS, SPANS)
def test_overlap_with_a_set(calls, spans):
    calls, spans = times(*calls), times(*spans)
    found = intervals.overlap(calls[:, 0], calls[:, 1], spans)
    assert found.tolist() == [
        intervals.coverage(intervals.intersection(calls[at : at + 1], spans)) for at in range(len(calls))
    ]


# Whole traces --------------------------------------------------------------------------------------------------------


def load_one(tmp_path, builder):
    return load(builder.save(tmp_path / "a.wanhook")).traces[0]


def lengths(trace):
    begin, end = exposed_intervals(trace)
    return (end - begin).tolist()


def step_builder(**fields):
    """Two steps of 1 ms, the first of which is left out of the figures of a step."""
    builder = TraceBuilder(**fields)
    builder.group("0", (0, 1))
    for begin in (0, 1000 * US):
        gpu = (begin, begin + 1000 * US) if builder.device >= 0 else None
        builder.scope("step", begin, begin + 1000 * US, gpu=gpu)
    return builder


def wait(builder, begin, end, name="fsdp wait", **fields):
    builder.scope(name, begin, end, gpu=(begin, end), level="op", type="wait", **fields)


def test_own_stream_in_full_side_stream_while_it_is_waited_for(tmp_path):
    builder = step_builder()
    builder.collective("alltoall_", 0, gpu=(10 * US, 60 * US), role="qkv")
    builder.collective("allgather_", 0, gpu=(100 * US, 200 * US), **ROLE)
    wait(builder, 150 * US, 200 * US)
    builder.collective("allgather_", 0, gpu=(300 * US, 400 * US), **ROLE)
    wait(builder, 500 * US, 501 * US)
    assert lengths(load_one(tmp_path, builder)) == [50 * US, 50 * US, 0]


def test_asynchronous_calls_are_on_another_stream_than_the_callers(tmp_path):
    builder = step_builder()
    builder.collective("allgather_", 0, gpu=(100 * US, 200 * US), flags=CollectiveFlags.ASYNC, stream=COMPUTE)
    wait(builder, 180 * US, 205 * US)
    assert lengths(load_one(tmp_path, builder)) == [20 * US]


def test_only_waits_on_the_same_device_count(tmp_path):
    builder = step_builder()
    builder.collective("allgather_", 0, gpu=(100 * US, 200 * US), **ROLE)
    builder.device = 1
    builder.gpu_anchor(0)
    builder.gpu_anchor(2000 * US)
    wait(builder, 150 * US, 200 * US)
    assert lengths(load_one(tmp_path, builder)) == [0]


def test_a_scope_on_the_side_stream_does_not_make_it_a_compute_stream(tmp_path):
    builder = step_builder()
    builder.scope("copy", 0, 10 * US, gpu=(0, 10 * US), level="op", stream=SIDE)
    builder.collective("allgather_", 0, gpu=(100 * US, 200 * US), **ROLE)
    assert lengths(load_one(tmp_path, builder)) == [0]


@pytest.mark.parametrize(("stream", "expected"), [(0, 50 * US), (SIDE, 0)])
def test_without_scopes_the_compute_stream_is_torchs_default(tmp_path, stream, expected):
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    builder.collective("allreduce_", 0, gpu=(10 * US, 60 * US), stream=stream)
    assert lengths(load_one(tmp_path, builder)) == [expected]


def test_a_host_collective_beside_a_gpu_is_no_part_of_its_time(tmp_path):
    builder = step_builder()
    builder.device = -1
    builder.collective("barrier", 100 * US, returned=150 * US, completed=150 * US)
    trace = load_one(tmp_path, builder)
    assert lengths(trace) == [0]
    (row,) = exposure([trace], "step").rows
    assert (row.timed, row.untimed, row.clock, row.exposed_ns) == (0, 1, None, None)


def test_on_the_host_sync_calls_count_in_full_and_async_ones_while_waited_for(tmp_path):
    builder = step_builder(device="cpu")
    builder.collective("alltoall_", 10 * US, returned=60 * US, completed=60 * US, role="qkv")
    flags = CollectiveFlags.ASYNC
    builder.collective("allgather_", 100 * US, returned=101 * US, completed=200 * US, flags=flags, **ROLE)
    builder.scope("fsdp wait", 180 * US, 210 * US, level="op", type="wait")
    trace = load_one(tmp_path, builder)
    assert lengths(trace) == [50 * US, 20 * US]
    assert [row.clock for row in exposure([trace], "step").rows] == ["host", "host"]


def known_exposure():
    """In each step: an all_gather of 200 us, 50 of them exposed, behind 30 us in which the host is late; one that is
    hidden; and 100 us of all_to_all on the compute stream."""
    builder = step_builder()
    for step in (0, 1000 * US):
        builder.collective("_allgather_base_", step, gpu=(step + 100 * US, step + 300 * US), **ROLE)
        wait(builder, step + 250 * US, step + 300 * US)
        builder.collective("_allgather_base_", step, gpu=(step + 300 * US, step + 400 * US), **ROLE)
        wait(builder, step + 470 * US, step + 500 * US)
        builder.collective("alltoall_", step, gpu=(step + 500 * US, step + 600 * US), role="qkv")
    return builder


def test_table_in_total_and_for_one_step(tmp_path):
    found = exposure([load_one(tmp_path, known_exposure())], "step")
    assert (found.step, found.step_ns) == ("step", 1000 * US)
    exchange, gather = found.rows
    assert (gather.op, gather.role, gather.clock, gather.timed, gather.compute_stream) == (
        "all_gather", "fsdp", "gpu", 4, 0,
    )  # fmt: skip
    assert (gather.total_ns, gather.exposed_ns, gather.share) == (600 * US, 100 * US, pytest.approx(1 / 6))
    assert (gather.step_total_ns, gather.step_exposed_ns, gather.step_share) == (300 * US, 50 * US, 0.05)
    assert (exchange.name, exchange.compute_stream, exchange.share) == ("all_to_all qkv", 2, 1.0)
    assert exchange.step_share == 0.1


def test_wait_time_that_is_for_nothing_stands_apart(tmp_path):
    (row,) = wait_table([load_one(tmp_path, known_exposure())])
    assert (row.name, row.clock, row.untimed, row.total_ns) == ("fsdp wait", "gpu", 0, 160 * US)
    assert (row.waited_for, row.nothing_ns) == ({"all_gather fsdp": 100 * US}, 60 * US)
    assert [(rank.rank, rank.count, rank.total_ns) for rank in row.ranks] == [(0, 4, 160 * US)]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_wait_is_for_nothing_that_another_compute_stream_carries(tmp_path, device):
    """Two streams, or two threads, of which one waits while the other exchanges; its own call is its own."""
    builder = step_builder(device=device)

    def call(begin, end, lane):
        done = {"gpu": (begin, end), "stream": lane} if device == "cuda" else {"completed": end, "thread": lane}
        builder.collective("alltoall_", begin, **done)

    builder.scope("other step", 0, 900 * US, gpu=(0, 900 * US) if device == "cuda" else None, stream=8, thread=8)
    gpu = (100 * US, 300 * US) if device == "cuda" else None
    builder.scope("my wait", 100 * US, 300 * US, gpu=gpu, type="wait", stream=7, thread=7)
    call(50 * US, 260 * US, lane=8)
    call(200 * US, 300 * US, lane=7)
    (row,) = wait_table([load_one(tmp_path, builder)])
    assert (row.total_ns, row.waited_for, row.nothing_ns) == (200 * US, {"all_to_all": 100 * US}, 100 * US)


def test_ranks_and_their_traces_add_up(tmp_path):
    for rank in (0, 0, 1):
        builder = known_exposure()
        builder.meta({"rank": {"rank": rank, "world_size": 2}})
        builder.save(tmp_path / f"{rank}-{len(list(tmp_path.iterdir()))}.wanhook")
    traces = load(tmp_path).traces
    (_, gather), (waits,) = exposure(traces, "step").rows, wait_table(traces)
    assert [(share.rank, share.count, share.total_ns) for share in gather.exposed_ranks] == [
        (0, 8, 200 * US), (1, 4, 100 * US),
    ]  # fmt: skip
    assert (gather.exposed_ns, gather.step_exposed_ns) == (300 * US, 50 * US)
    assert [(rank.rank, rank.count) for rank in waits.ranks] == [(0, 8), (1, 4)]
    assert waits.waited_for == {"all_gather fsdp": 300 * US}


def test_two_streams_that_wait_for_one_call_both_wait_for_it(tmp_path):
    builder = step_builder()
    builder.collective("_allgather_base_", 0, gpu=(100 * US, 300 * US), **ROLE)
    for stream in (7, 8):
        wait(builder, 200 * US, 310 * US, stream=stream)
    (row,) = wait_table([load_one(tmp_path, builder)])
    assert (row.total_ns, row.waited_for, row.nothing_ns) == (220 * US, {"all_gather fsdp": 200 * US}, 20 * US)


def test_every_step_of_a_later_recording_of_a_process_is_one_of_the_others(tmp_path):
    for life in range(2):
        builder = step_builder(life=life)
        for begin in (0, 1000 * US):
            builder.collective("alltoall_", begin, gpu=(begin, begin + (100 + life) * US), role="qkv")
        builder.save(tmp_path / f"{life}.wanhook")
    (row,) = exposure(load(tmp_path).traces, "step").rows
    assert row.step_exposed_ns == pytest.approx((100 + 101 + 101) / 3 * US)


def test_steps_of_one_device_are_not_those_of_another(tmp_path):
    """A thread each for two GPUs, of which one is half a step behind."""
    builder = TraceBuilder(anchors=False)
    builder.group("0", (0, 1))
    for device in range(2):
        builder.device, late = device, device * 500 * US
        for at in (0, 3000 * US):
            builder.anchor(at)
            builder.gpu_anchor(at)
        for begin in (late, 1000 * US + late):
            builder.scope("step", begin, begin + 900 * US, gpu=(begin, begin + 900 * US))
        builder.collective("alltoall_", 0, gpu=(1850 * US + late, 1950 * US + late), role="qkv")
    (row,) = exposure([load_one(tmp_path, builder)], "step").rows
    assert row.step_total_ns == pytest.approx((50 + 50) / 3 * US)


def test_without_a_wait_for_them_nobody_knows(tmp_path):
    builder = step_builder()
    builder.collective("allgather_", 0, gpu=(100 * US, 200 * US), stream=SIDE, role="mine")
    builder.collective("allgather_", 0, gpu=(300 * US, 400 * US), **ROLE)
    wait(builder, 700 * US, 701 * US)
    mine, gather = sorted(exposure([load_one(tmp_path, builder)], "step").rows, key=lambda row: -row.unknown)
    assert (mine.role, mine.unknown, mine.exposed_ns, mine.share, mine.step_share) == ("mine", 1, None, None, None)
    assert (gather.role, gather.unknown, gather.exposed_ns, gather.share) == ("fsdp", 0, 0, 0.0)


def test_waits_without_a_gpu_time_are_counted(tmp_path):
    builder = step_builder()
    builder.scope("fsdp wait", 10 * US, 20 * US, level="op", type="wait")
    (row,) = wait_table([load_one(tmp_path, builder)])
    assert (row.untimed, row.total_ns, row.nothing_ns, row.ranks[0].count) == (1, 0, 0, 0)


def test_no_steps_no_figures_of_a_step(tmp_path):
    found = exposure([load_one(tmp_path, known_exposure())], None)
    assert (found.step, found.step_ns) == (None, None)
    assert {(row.step_total_ns, row.step_exposed_ns, row.step_share) for row in found.rows} == {(None, None, None)}


def test_finding_names_the_share_and_what_to_try(tmp_path):
    traces = [load_one(tmp_path, known_exposure())]
    (found,) = [each for each in look_at(traces, [], [], exposure(traces, "step")) if each.kind == "exposed"]
    assert found.text.startswith(
        "5.0% of step is exposed all_gather fsdp: 0.1 of 1.0 ms, 17% of the time that it takes. To try"
    )
    assert found.figures == {
        "path": "step", "op": "all_gather", "role": "fsdp", "share": 0.05,
        "exposed_ns": 50 * US, "total_ns": 300 * US, "step_ns": 1000 * US,
    }  # fmt: skip


def test_muted_steps_do_not_thin_out_the_figures_of_a_step(tmp_path):
    """Nothing is known of what they held: they count neither above nor below the line."""
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    for number, sort in enumerate(("recorded", "recorded", "muted", "muted", "recorded")):
        begin = number * 1000 * US
        builder.scope("step", begin, begin + 900 * US, gpu=(begin, begin + 900 * US), verify=sort)
        if sort == "recorded":
            builder.collective("alltoall_", begin, gpu=(begin, begin + 90 * US), role="qkv")
    found = exposure([load_one(tmp_path, builder)], "step")
    assert (found.step_ns, found.rows[0].step_exposed_ns) == (900 * US, 90 * US)
    assert found.rows[0].step_share == pytest.approx(0.1)
