"""Kernels of a window find the collective that launched them, and no other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import made_wan
from made_trace import TraceBuilder
from wanhook.analysis.collectives import collective_table
from wanhook.analysis.kernel_windows import kernel_windows
from wanhook.report.build import build
from wanhook.report.terminal import render
from wanhook.tracefile.format import CollectiveFlags
from wanhook.tracefile.kernels import SLACK
from wanhook.tracefile.model import Trace, load

MIB = 1 << 20
US = 1_000
START = 1_000_000_000_000
SEND, GATHER, SCATTER, SUM = (
    "ncclDevKernel_SendRecv",
    "ncclDevKernel_AllGather_RING_LL",
    "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL",
    "ncclDevKernel_AllReduce_Sum_f32_RING_LL",
)


@pytest.fixture
def builder():
    made = TraceBuilder()
    made.group("0", (0, 1))
    return made


@pytest.fixture
def read(tmp_path):
    def read(builder: TraceBuilder) -> Trace:
        return Trace(builder.save(tmp_path / "rank00000-1-0.wanhook"))

    return read


def kernel_of(trace: Trace, number: int) -> tuple:
    """(begin, end, kernels, calls that share them) of a call, begin and end in ns after the start or None."""
    (call,) = trace.collectives[trace.collectives["id"] == number]
    times = [None if call[name] < 0 else int(call[name]) - START for name in ("kernel_begin", "kernel_end")]
    return *times, int(call["kernels"]), int(call["kernel_calls"])


NONE = (None, None, 0, 0)


def test_a_kernel_belongs_to_the_call_that_launched_it(builder, read):
    """Also far behind it, in another order than the calls, and for async calls, which have no interval."""
    asynchronous = builder.collective("_allgather_base_", 100 * US, returned=120 * US, flags=CollectiveFlags.ASYNC)
    sync = builder.collective("alltoall_base_", 130 * US, returned=150 * US, gpu=(132 * US, 900 * US))
    builder.kernel(SEND, 800 * US, 890 * US, launch=141 * US)
    builder.kernel(GATHER, 2000 * US, 2100 * US, launch=111 * US)
    trace = read(builder)
    assert kernel_of(trace, sync) == (800 * US, 890 * US, 1, 1)
    assert kernel_of(trace, asynchronous) == (2000 * US, 2100 * US, 1, 1)
    assert trace.kernels["collective"].tolist() == [sync, asynchronous]
    assert [trace.strings[name] for name in trace.kernels["name"]] == [SEND, GATHER]
    assert (trace.kernels["launch"] - START).tolist() == [141 * US, 111 * US]
    assert trace.health.damage == []


def test_threads_that_call_at_one_time_are_told_apart_by_the_kind(builder, read):
    calls = {}
    for thread, op in enumerate(["alltoall_", "allreduce_", "_reduce_scatter_base_", "broadcast_"]):
        calls[op] = builder.collective(op, 100 * US + thread, returned=200 * US, thread=1 + thread)
    builder.kernel(SUM, 300 * US, 310 * US, launch=150 * US)
    builder.kernel(SCATTER, 320 * US, 330 * US, launch=151 * US)
    builder.kernel(SEND, 340 * US, 350 * US, launch=152 * US)
    trace = read(builder)
    assert kernel_of(trace, calls["allreduce_"])[0] == 300 * US
    assert kernel_of(trace, calls["_reduce_scatter_base_"])[0] == 320 * US
    assert kernel_of(trace, calls["alltoall_"])[0] == 340 * US
    assert kernel_of(trace, calls["broadcast_"]) == NONE


def test_a_coalesced_group_shares_the_kernels_launched_behind_its_last_member(builder, read):
    flags = CollectiveFlags.COALESCED | CollectiveFlags.P2P
    before = builder.collective("alltoall_", 50 * US, returned=60 * US)
    members = [
        builder.collective(op, at * US, returned=(at + 5) * US, flags=flags, coalesced=4)
        for op, at in (("send", 100), ("recv_", 110))
    ]
    after = builder.collective("alltoall_", 150 * US, returned=160 * US)
    builder.kernel(SEND, 200 * US, 210 * US, launch=120 * US)
    builder.kernel(SEND, 205 * US, 230 * US, launch=125 * US)
    trace = read(builder)
    assert [kernel_of(trace, member) for member in members] == [(200 * US, 230 * US, 2, 2)] * 2
    assert kernel_of(trace, before) == kernel_of(trace, after) == NONE


def test_one_call_that_stands_for_a_whole_group_has_its_kernel_alone(builder, read):
    number = builder.collective(
        "allgather_into_tensor_coalesced_", 100 * US, returned=130 * US, flags=CollectiveFlags.COALESCED, coalesced=9
    )
    builder.kernel(GATHER, 200 * US, 210 * US, launch=120 * US)
    assert kernel_of(read(builder), number) == (200 * US, 210 * US, 1, 1)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (SEND, {"launch": 90 * US}),  # before the call
        (SEND, {"launch": 121 * US}),  # behind it
        (GATHER, {"launch": 110 * US}),  # not what this call runs
        (SEND, {"launch": 110 * US, "device": 1}),
    ],
)
def test_a_kernel_of_nobody_stays_unmatched(builder, read, name, fields):
    number = builder.collective("alltoall_", 100 * US, returned=120 * US, gpu=(102 * US, 400 * US))
    builder.kernel(name, 200 * US, 210 * US, **fields)
    trace = read(builder)
    assert kernel_of(trace, number) == NONE
    assert trace.kernels["collective"].tolist() == [0]


def test_captured_calls_have_no_kernels(builder, read):
    number = builder.collective("alltoall_", 100 * US, returned=120 * US, flags=CollectiveFlags.CAPTURED)
    builder.kernel(SEND, 200 * US, 210 * US, launch=110 * US)
    assert kernel_of(read(builder), number) == NONE


def test_without_a_launch_the_stream_interval_decides_when_one_call_fits(builder, read):
    one = builder.collective("alltoall_", 0, returned=20 * US, gpu=(10 * US, 100 * US))
    gather = builder.collective("allgather_", 30 * US, returned=50 * US, gpu=(40 * US, 300 * US), stream=9)
    builder.kernel(SEND, 10 * US - SLACK, 100 * US + SLACK)
    builder.kernel(GATHER, 50 * US, 90 * US)
    trace = read(builder)
    assert kernel_of(trace, one) == (10 * US - SLACK, 100 * US + SLACK, 1, 1)
    assert kernel_of(trace, gather) == (50 * US, 90 * US, 1, 1)


def test_without_a_launch_two_calls_that_fit_are_one_too_many(builder, read):
    calls = [builder.collective("alltoall_", at, returned=at + 1, gpu=(10 * US, 100 * US)) for at in (0, 5 * US)]
    builder.kernel(SEND, 20 * US, 90 * US)
    assert [kernel_of(read(builder), number) for number in calls] == [NONE, NONE]


def test_a_kernel_of_a_sort_not_known_here_is_matched_by_its_launch(builder, read):
    number = builder.collective("an_op_of_tomorrow_", 100 * US, returned=120 * US)
    builder.kernel("ncclDevKernel_Generic_4", 200 * US, 210 * US, launch=110 * US)
    assert kernel_of(read(builder), number)[0] == 200 * US


def test_the_realtime_clock_may_drift_against_the_monotonic_one(tmp_path):
    """Anchors a second apart, between which CLOCK_REALTIME gains 50 us: the kernel's place follows."""
    builder = TraceBuilder(anchors=False)
    builder.anchor(0)
    builder.anchor(1_000_000 * US, realtime_shift=50 * US)
    builder.group("0", (0, 1))
    number = builder.collective("alltoall_", 500_000 * US, returned=500_020 * US)
    builder.kernel(SEND, 500_125 * US, 500_135 * US, launch=500_035 * US)
    trace = Trace(builder.save(tmp_path / "a.wanhook"))
    begin, end, kernels, _ = kernel_of(trace, number)
    assert kernels == 1
    assert abs(begin - 500_125 * US / 1.00005) <= 1
    assert abs(end - 500_135 * US / 1.00005) <= 1


@given(st.lists(st.integers(-(1 << 62), 1 << 62), max_size=20), st.integers(-1000, 1000))
def test_from_realtime_undoes_to_realtime(times, shift):
    from wanhook.tracefile.clock import LIMIT, Clock
    from wanhook.tracefile.format import FILE_HEADER, RECORDS, ClockFlags, Kind

    header = dict.fromkeys(FILE_HEADER.names, 0) | {"tick_period": 1.0, "start_realtime": 10**18}
    anchors = np.zeros(2, RECORDS[Kind.CLOCK_ANCHOR])
    anchors["flags"], anchors["monotonic"] = ClockFlags.HOST, [10**12, 2 * 10**12]
    anchors["realtime"] = 10**18 + anchors["monotonic"] + [0, shift]
    anchors["tick"] = anchors["tick_after"] = anchors["monotonic"]
    clock = Clock(header, anchors)
    back = clock.from_realtime(np.array(times, np.int64))
    assert ((back >= 0) & (back <= LIMIT)).all()
    inside = np.clip(np.array(times, np.int64), 0, 10**13)
    assert (np.abs(clock.from_realtime(clock.to_realtime(inside)) - inside) <= 1).all()


def test_kernel_intervals_stand_apart_from_stream_intervals(tmp_path):
    rows = {row.op: row for row in collective_table(load(made_wan.save_kernels(tmp_path)).traces)}
    row = rows["all_to_all"]
    assert (row.time.count, row.time.mean_ns) == (6, 80 * US)
    assert (row.kernel.count, row.kernel.mean_ns, row.kernel.max_ns, row.kernel.first_ns) == (4, 25 * US, 30 * US, None)
    assert row.kernel_shared == 0
    # Two calls a rank of the window's, three in all: 8 MiB in each, by their own kernels and by no other interval.
    assert (row.kernel_calls_by_rank, row.calls_by_rank) == ({0: 2, 1: 2}, {0: 3, 1: 3})
    assert row.kernel_algbw_bytes_per_s == pytest.approx(MIB * 8 / 25e-6)
    assert row.kernel_busbw_bytes_per_s == pytest.approx(MIB * 8 / 25e-6 / 2)
    assert row.algbw_bytes_per_s == pytest.approx(MIB * 8 / 80e-6)
    assert rows["all_gather"].kernel is None


def test_what_a_window_held_is_counted(tmp_path):
    window, _ = kernel_windows(load(made_wan.save_kernels(tmp_path)).traces)
    assert (window.scope, window.instance, window.lasted_ns) == ("denoise_step", 2, 400 * US)
    assert (window.kernels, window.unmatched, window.calls, window.without_kernel) == (3, 1, 3, 1)
    assert (window.opening_ns, window.closing_ns, window.gpu_finished) == (3_000 * US, 40_000 * US, True)


@pytest.mark.parametrize("about", [{"kernel_window": None}, {"kernel_window": {"begin": "x", "end": -5, "name": 7}}])
def test_a_damaged_window_does_no_harm(tmp_path, about):
    builder = TraceBuilder(meta=about)
    (window,) = kernel_windows([Trace(builder.save(tmp_path / "a.wanhook"))])
    assert (window.scope, window.instance, window.lasted_ns, window.calls) == ("", 0, 0, 0)


def test_the_report_shows_kernels_only_where_there_is_a_window(tmp_path):
    text = render(build(load(made_wan.save_kernels(tmp_path))))
    assert "KERNEL INTERVALS" in text
    (line,) = [line for line in text.split("KERNEL INTERVALS")[1].splitlines() if "all_to_all qkv" in line][:1]
    assert line.split()[2:] == ["2", "0.025", "0.025", "0.030", "0.030", "-", "335.5", "167.8"]
    TraceBuilder().save(tmp_path / "other.wanhook")
    assert "KERNEL" not in render(build(load(tmp_path / "other.wanhook")))


def test_pandas_gets_the_kernels(tmp_path):
    pytest.importorskip("pandas")
    frames = load(made_wan.save_kernels(tmp_path)).to_pandas()
    assert frames["kernels"]["name"].tolist() == [SEND, SEND, SUM] * 2
    assert (frames["kernels"]["collective"] > 0).tolist() == [True, True, False] * 2
