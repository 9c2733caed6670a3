"""Which class a collective's interval is given, and between which bounds its kernel must have run."""

import numpy as np
import pytest

from made_trace import TraceBuilder
from wanhook.analysis import span_classes
from wanhook.analysis.span_classes import (
    BUSY_BEGIN,
    BUSY_END,
    CROWDED_END,
    EVENT,
    KERNEL_GAP,
    LAUNCH,
    PAIR,
    classify,
    correction,
    pair_cost,
)
from wanhook.tracefile.format import CollectiveFlags, SpanClass
from wanhook.tracefile.model import load

US = 1_000
MS = 1_000_000
BRACKET = 8 * US  # TraceBuilder's GPU anchors: the clock can be off by half of it


@pytest.fixture
def builder():
    made = TraceBuilder()
    made.group("0", (0, 1))
    return made


def classified(builder, tmp_path):
    trace = load(builder.save(tmp_path / "0.wanhook")).traces[0]
    classify(trace)
    return trace


def busy(builder, at: int = MS, length: int = 100 * US, *, stream: int = 0, **fields) -> None:
    """A call that the GPU reaches long after it returned; `at` is when the GPU does."""
    builder.collective("alltoall_base_", at - 500 * US, returned=at - 450 * US, gpu=(at, at + length), stream=stream,
                       **fields)  # fmt: skip


def only(trace):
    (call,) = trace.collectives
    return SpanClass(call["span_class"]), int(call["begin_slack"]), int(call["end_slack"])


def test_busy_and_alone(builder, tmp_path):
    busy(builder)
    trace = classified(builder, tmp_path)
    assert only(trace) == (SpanClass.BUSY_ALONE, BUSY_BEGIN, BUSY_END)
    assert correction(trace).tolist() == [PAIR]


def test_a_gpu_that_waits_for_the_host_is_idle(builder, tmp_path):
    """The kernel can have begun a launch latency after the call returned, the clock's error more; and since the end
    event was reached at once too, nothing but the interval bounds its end."""
    builder.collective("alltoall_base_", MS, returned=MS + 40 * US, gpu=(MS + 5 * US, MS + 45 * US), stream=0)
    span_class, begin, end = only(trace := classified(builder, tmp_path))
    assert (span_class, end) == (SpanClass.IDLE, 40 * US)
    assert begin == 40 * US  # 35 us to the return and 8 us of launch lie beyond the end
    assert correction(trace).tolist() == [0]


def test_a_long_kernel_on_an_idle_stream_ends_where_its_event_says(builder, tmp_path):
    builder.collective("alltoall_base_", MS, returned=MS + 40 * US, gpu=(MS + 5 * US, 2 * MS), stream=0)
    span_class, begin, end = only(classified(builder, tmp_path))
    assert (span_class, end) == (SpanClass.IDLE, BUSY_END)
    assert 35 * US + LAUNCH < begin <= 35 * US + LAUNCH + BRACKET


def test_a_begin_within_the_clock_s_error_of_the_return_may_be_idle(builder, tmp_path):
    for late, expected in ((BRACKET, SpanClass.BUSY_ALONE), (BRACKET // 4, SpanClass.IDLE)):
        builder.collective("alltoall_base_", MS, returned=MS + 40 * US, gpu=(MS + 40 * US + late, 2 * MS), stream=0)
        found = classified(builder, tmp_path).collectives["span_class"]
        assert found[-1] == expected


@pytest.mark.parametrize("beside", ["collective", "scope"])
def test_another_stream_at_work_overlaps(builder, tmp_path, beside):
    busy(builder, MS)
    if beside == "scope":
        builder.scope("block", 0, 10, gpu=(MS + 99 * US, 3 * MS), stream=5)
    else:
        builder.collective("_allgather_base_", 0, returned=10, gpu=(0, MS + US), stream=5)
    call = classified(builder, tmp_path).collectives[-1 if beside == "collective" else 0]
    assert (call["span_class"], call["begin_slack"], call["end_slack"]) == (SpanClass.OVERLAPPED, 100 * US, CROWDED_END)


def test_what_touches_does_not_overlap(builder, tmp_path):
    builder.scope("before", 0, 10, gpu=(0, MS), stream=5)
    builder.scope("after", 0, 10, gpu=(MS + 100 * US, 2 * MS), stream=5)
    builder.scope("around, on its own stream", 0, 10, gpu=(0, 3 * MS), stream=0)
    busy(builder)
    assert only(classified(builder, tmp_path))[0] == SpanClass.BUSY_ALONE


def test_a_stream_that_only_waits_is_not_at_work(builder, tmp_path):
    """FSDP's exposed all_gather: the compute stream's scope lies across it, and so does the wait within."""
    builder.scope("block", 0, 10, gpu=(0, 5 * MS), stream=0)
    builder.scope("all_gather", 0, 10, gpu=(MS - US, MS + 101 * US), stream=0, type="wait")
    builder.scope("side", 0, 10, gpu=(0, 10), stream=9)
    busy(builder, MS, stream=9)
    busy(builder, 2 * MS, stream=9)
    found = classified(builder, tmp_path).collectives["span_class"].tolist()
    assert found == [SpanClass.BUSY_ALONE, SpanClass.OVERLAPPED]


def test_asynchronous_calls_may_be_overlapped(builder, tmp_path):
    busy(builder, flags=CollectiveFlags.ASYNC)
    assert only(classified(builder, tmp_path))[0] == SpanClass.OVERLAPPED


def test_a_side_stream_beside_streams_of_which_nothing_is_known(builder, tmp_path):
    busy(builder, stream=9)
    assert only(classified(builder, tmp_path)) == (SpanClass.UNKNOWN, 100 * US, CROWDED_END)


def test_an_overlapped_kernel_takes_as_long_as_the_fastest_alike(builder, tmp_path):
    """Not as one of another size or op, and not as an overlapped one."""
    busy(builder, MS, 90 * US, bytes_in=64)
    busy(builder, 2 * MS, 50 * US + PAIR, bytes_in=64)
    busy(builder, 3 * MS, 10 * US, bytes_in=32)
    busy(builder, 4 * MS, 100 * US, bytes_in=64)
    busy(builder, 5 * MS, 20 * US, bytes_in=64)
    builder.scope("block", 0, 10, gpu=(4 * MS, 6 * MS), stream=5)
    calls = classified(builder, tmp_path).collectives
    assert calls["begin_slack"].tolist()[-2:] == [55 * US, BUSY_BEGIN]
    assert calls["span_class"].tolist()[-2:] == [SpanClass.OVERLAPPED] * 2


def test_what_the_recorder_knew_stays(builder, tmp_path):
    busy(builder, begin_slack=7, end_slack=3)
    busy(builder, 2 * MS, span_class=SpanClass.OVERLAPPED)
    trace = classified(builder, tmp_path)
    assert trace.collectives["begin_slack"].tolist() == [7, 0]
    assert trace.collectives["span_class"].tolist() == [SpanClass.UNKNOWN, SpanClass.OVERLAPPED]


def test_a_second_look_changes_nothing(builder, tmp_path):
    busy(builder, MS, stream=9)
    busy(builder, MS + 50 * US)
    trace = classified(builder, tmp_path)
    before = trace.collectives.copy()
    classify(trace)
    assert (trace.collectives == before).all()


def test_untimed_calls_stay_as_they_are(builder, tmp_path):
    builder.collective("alltoall_base_", MS, returned=2 * MS)
    assert only(classified(builder, tmp_path)) == (SpanClass.UNKNOWN, 0, 0)


def test_devices_do_not_overlap_one_another(tmp_path):
    builder = TraceBuilder()
    busy(builder)
    builder.device = 1
    builder.scope("elsewhere", 0, 10, gpu=(0, 5 * MS), stream=5)
    builder.gpu_anchor(0)
    builder.device = 0
    assert only(classified(builder, tmp_path))[0] == SpanClass.BUSY_ALONE


MEASURED = {"empty_ns": 1_500, "one_ns": 5_000, "many_ns": 13_000, "many": 5, "spread_ns": 200}


def test_the_cost_that_the_recording_measured_is_used(tmp_path):
    """Each further memset took 2 us, of which the gap to the one before is a part."""
    builder = TraceBuilder(meta={"event_pair": {"0": MEASURED}})
    busy(builder)
    trace = classified(builder, tmp_path)
    assert correction(trace).tolist() == [3_000 + KERNEL_GAP]
    assert pair_cost(trace.meta, 0) == span_classes.PairCost(3_000 + KERNEL_GAP, 200, True, 1_500)
    assert pair_cost(trace.meta, 1) == span_classes.PairCost(PAIR, span_classes.PAIR_SPREAD, False)


@pytest.mark.parametrize(
    "found",
    [None, 7, {"0": []}, *({"0": {**MEASURED, name: value}} for name, value in [
        ("one_ns", "5000"), ("one_ns", 1 << 62), ("many_ns", None), ("many_ns", 0), ("many", 1), ("many", 0),
        ("spread_ns", 5_000), ("one_ns", 100)])],
)  # fmt: skip
def test_a_damaged_cost_is_not_used(found):
    assert not pair_cost({"event_pair": found}, 0).measured


def test_overlaps_agree_with_a_look_at_every_pair(tmp_path):
    random = np.random.default_rng(5)
    builder = TraceBuilder()
    for _ in range(150):
        begin, length, stream = (int(random.integers(low, high)) for low, high in ((1, 40), (1, 3), (0, 4)))
        where = {"gpu": (begin * MS, (begin + length) * MS), "stream": stream}
        if random.random() < 0.5:
            builder.scope("work", 0, 10, **where)
        else:
            builder.collective("alltoall_base_", 0, returned=10, **where)
    trace = classified(builder, tmp_path)
    spans = [
        (int(row["stream"]), int(row["gpu_begin"]), int(row["gpu_end"])) for row in [*trace.scopes, *trace.collectives]
    ]
    for call in trace.collectives:
        beside = any(
            stream != call["stream"] and begin < call["gpu_end"] and end > call["gpu_begin"]
            for stream, begin, end in spans
        )
        assert (call["span_class"] == SpanClass.OVERLAPPED) == beside


def test_what_ran_unseen_beside_a_call_is_within_its_bounds(builder, tmp_path):
    """A call that took longer than its like can have waited for SMs, though nothing recorded was beside it."""
    busy(builder, MS, 50 * US)
    busy(builder, 2 * MS, 90 * US)
    calls = classified(builder, tmp_path).collectives
    assert calls["span_class"].tolist() == [SpanClass.BUSY_ALONE] * 2
    assert calls["begin_slack"].tolist() == [BUSY_BEGIN, BUSY_BEGIN + 40 * US]


def test_events_of_nccls_within_ours_cost_as_much_again(builder, tmp_path):
    """A synchronous call of a group that keeps NCCL's events."""
    busy(builder, flags=CollectiveFlags.TIMED | CollectiveFlags.AROUND_EVENTS)
    trace = classified(builder, tmp_path)
    assert only(trace) == (SpanClass.BUSY_ALONE, BUSY_BEGIN + EVENT, BUSY_END + EVENT)
    assert correction(trace).tolist() == [PAIR + 2 * EVENT]


def listed(builder, op: str, *lengths: int) -> None:
    for number, length in enumerate(lengths):
        at = (number + 1) * 10 * MS
        builder.collective(op, at - 500 * US, returned=at - 450 * US, gpu=(at, at + length), stream=0, bytes_in=64)


def test_copies_behind_the_kernel_are_no_part_of_it(builder, tmp_path):
    """The fastest call takes 36 us without its events, so no copy takes more than 40."""
    listed(builder, "c10d::allgather_", 36 * US + PAIR, 300 * US)
    trace = classified(builder, tmp_path)
    calls = trace.collectives
    assert calls["span_class"].tolist() == [SpanClass.BUSY_ALONE] * 2
    assert calls["begin_slack"].tolist() == [BUSY_BEGIN, BUSY_BEGIN + 264 * US - PAIR]
    assert calls["end_slack"].tolist() == [36 * US + PAIR, BUSY_END + 40 * US]
    assert correction(trace).tolist() == [0, 0]


@pytest.mark.parametrize("op", ["reduce_scatter_", "gather_", "scatter_"])
def test_a_kernel_behind_copies_begins_anywhere(builder, tmp_path, op):
    listed(builder, op, 36 * US, 300 * US)
    trace = classified(builder, tmp_path)
    assert trace.collectives["begin_slack"].tolist() == [36 * US, 300 * US]
    assert trace.collectives["end_slack"].tolist() == [BUSY_END, BUSY_END]
    assert correction(trace).tolist() == [0, 0]


def test_copies_beside_other_work_take_anything(builder, tmp_path):
    listed(builder, "allgather_", 36 * US, 300 * US)
    builder.scope("block", 0, 10, gpu=(20 * MS, 21 * MS), stream=5)
    assert classified(builder, tmp_path).collectives["end_slack"].tolist()[1] == 300 * US


@pytest.mark.parametrize("op", ["alltoall_", "_allgather_base_", "_reduce_scatter_base_"])
def test_what_is_not_copied_is_bounded_and_corrected_as_ever(builder, tmp_path, op):
    listed(builder, op, 36 * US)
    trace = classified(builder, tmp_path)
    assert only(trace) == (SpanClass.BUSY_ALONE, BUSY_BEGIN, BUSY_END)
    assert correction(trace).tolist() == [PAIR]
