"""Records become tables: begins joined with ends and GPU intervals, events in order, snapshots, samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_trace import TraceBuilder
from wanhook.tracefile.format import (
    AllocatorAction,
    BlockState,
    CollectiveEndFlags,
    CollectiveFlags,
    CollectivePhase,
    FileState,
    Kind,
    ScopeEndFlags,
    ScopeLevel,
    ScopeType,
)
from wanhook.tracefile.model import Trace
from wanhook.tracefile.names import Group
from wanhook.tracefile.tables import Rows

START = 1_000_000_000_000


@pytest.fixture
def read(tmp_path):
    def read(builder: TraceBuilder) -> Trace:
        return Trace(builder.save(tmp_path / "rank00000-1-0.wanhook"))

    return read


# Scopes.


def test_a_scope_with_its_end_gpu_interval_and_arguments(read):
    builder = TraceBuilder()
    outer = builder.scope("request", 0, 9_000, gpu=(100, 9_500), request=3)
    inner = builder.scope(
        "self_attn", 1_000, 2_000, gpu=(1_500, 2_500), parent=outer, level="op", type="wait", args={"step": 4},
        stream=9, flags=ScopeEndFlags.EXCEPTION, thread=2, request=3,
    )  # fmt: skip
    trace = read(builder)
    row = trace.scopes[1]
    assert trace.scopes["id"].tolist() == [outer, inner]
    assert (row["parent"], trace.strings[row["name"]], row["stream"], row["request"]) == (outer, "self_attn", 9, 3)
    assert (row["level"], row["type"], row["device"], row["flags"]) == (ScopeLevel.OP, ScopeType.WAIT, 0, 1)
    assert (row["begin"], row["end"], row["thread"]) == (START + 1_000, START + 2_000, 2)
    assert (row["gpu_begin"], row["gpu_end"]) == (START + 1_500, START + 2_500)
    assert trace.paths[row["path"]] == "request/self_attn"
    assert trace.scope_args == {inner: {"step": 4}}
    assert not trace.scopes["open"].any()
    assert trace.health.damage == []


def test_scopes_are_in_order_of_begin_and_the_first_of_each_path_is_marked(read):
    builder = TraceBuilder()
    request = builder.scope("request", 0, 9_000)
    for at in (5_000, 1_000, 3_000):
        builder.scope("step", at, at + 500, parent=request, thread=2 if at == 1_000 else 1)
    trace = read(builder)
    assert (trace.scopes["begin"] - START).tolist() == [0, 1_000, 3_000, 5_000]
    assert trace.scopes["first"].tolist() == [True, True, False, False]
    assert trace.paths == ["request", "request/step"]
    assert trace.scopes["path"].tolist() == [0, 1, 1, 1]


def test_a_scope_without_an_end_is_open(read):
    builder = TraceBuilder()
    builder.scope("request", 0, gpu=(10, 20))
    trace = read(builder)
    assert trace.scopes["open"].tolist() == [True]
    assert trace.scopes["end"].tolist() == [-1]
    assert trace.scopes["gpu_end"].tolist() == [START + 20]


def test_ends_are_taken_once_and_only_where_they_belong(read):
    builder = TraceBuilder()
    scope = builder.scope("a", 1_000, 2_000, gpu=(1_000, 2_000))
    late = builder.scope("b", 3_000, 2_500)
    builder.record(Kind.SCOPE_END, id=scope, tick=builder.tick(9_000))
    builder.record(Kind.SCOPE_END, id=77, tick=builder.tick(9_000))
    builder.gpu_span(1, scope, (5_000, 6_000))
    builder.gpu_span(1, 78, (5_000, 6_000))
    builder.gpu_span(2, scope, (5_000, 6_000))
    builder.record(Kind.SCOPE_BEGIN, id=scope, name=1, tick=builder.tick(0))
    builder.record(Kind.SCOPE_BEGIN, id=0, name=1, tick=builder.tick(0))
    trace = read(builder)
    assert (trace.scopes["begin"] - START).tolist() == [1_000, 3_000]
    assert (trace.scopes["end"]).tolist() == [START + 2_000, -1]
    assert (trace.scopes["gpu_end"]).tolist() == [START + 2_000, -1]
    assert trace.scopes["id"][1] == late
    assert sorted(trace.health.damage) == [
        "1 GPU intervals of an unknown collective",
        "1 GPU intervals of an unknown scope",
        "1 scope_begin records with an id that came before",
        "1 scope_end records before their begin",
        "1 scope_end records of what has ended before",
        "1 scope_end records without a begin",
        "1 second GPU intervals of a scope",
    ]


def test_loose_ends_of_a_growing_file_are_no_damage(read):
    builder = TraceBuilder(state=FileState.RECORDING)
    builder.record(Kind.SCOPE_END, id=77, tick=builder.tick(9_000))
    assert read(builder).health.damage == []


def test_gpu_intervals_without_an_anchor_are_left_out_and_noted(read):
    builder = TraceBuilder(anchors=False)
    builder.anchor(0)
    builder.scope("a", 0, 100, gpu=(0, 50))
    trace = read(builder)
    assert trace.scopes["gpu_begin"].tolist() == [-1]
    assert trace.health.damage == ["1 GPU intervals on device 0, which has no clock anchor"]


def test_scopes_are_found_by_id(read):
    builder = TraceBuilder()
    scopes = [builder.scope(name, at, at + 1) for name, at in (("a", 20), ("b", 10))]
    trace = read(builder)
    assert trace.scope_rows(scopes).tolist() == [1, 0]
    assert trace.scope_rows(np.array([[0, scopes[0]], [99, scopes[1]]])).tolist() == [[-1, 1], [-1, 0]]
    assert [trace.paths[path] for path in trace.path_of(np.array(scopes))] == ["a", "b"]
    assert trace.path_of(np.array([0, 99])).tolist() == [-1, -1]


@given(st.lists(st.integers(1, 200), unique=True), st.lists(st.integers(-1, 1 << 33)), st.booleans())
def test_rows_are_found_in_a_table_and_by_search_alike(ids, others, far):
    ids = [*ids, *([0xFFFFFFFF] if far else [])]
    rows = Rows(np.array(ids, np.uint32))
    wanted = np.array([*ids, *others], np.int64)
    assert rows(wanted).tolist() == [ids.index(number) if number in ids else -1 for number in wanted]
    assert rows(np.array([ids], np.uint32)).tolist() == [list(range(len(ids)))]


# Collectives.


def test_a_collective_with_its_ends(read):
    builder = TraceBuilder()
    group = builder.group("0", (0, 4), rank=1, description="default_pg")
    scope = builder.scope("attn", 0, 10_000)
    call = builder.collective(
        "alltoall_base_", 1_000, returned=1_010, gpu=(1_200, 1_300), role="qkv", group=group, scope=scope, bytes_in=8,
        bytes_out=16, peer=-1, tensors=3, dtype=15, flags=CollectiveFlags.ASYNC, coalesced=2, span_class=1,
        begin_slack=7, end_slack=9,
    )  # fmt: skip
    row = read(builder).collectives[0]
    trace = read(builder)
    assert (row["id"], row["scope"], trace.paths[row["path"]], row["group"]) == (call, scope, "attn", group)
    assert (trace.strings[row["op"]], trace.strings[row["role"]]) == ("alltoall_base_", "qkv")
    assert (row["bytes_in"], row["bytes_out"], row["tensors"], row["dtype"], row["peer"]) == (8, 16, 3, 15, -1)
    assert row["flags"] == CollectiveFlags.ASYNC | CollectiveFlags.TIMED
    assert [int(row[name]) - START for name in ("begin", "returned", "gpu_begin", "gpu_end")] == [
        1000,
        1010,
        1200,
        1300,
    ]
    assert (row["completed"], row["failed"], row["coalesced"], row["sequence"]) == (-1, False, 2, 1)
    assert (row["span_class"], row["begin_slack"], row["end_slack"]) == (1, 7, 9)
    assert trace.groups == {group: Group("0", "nccl", 1, 2, (0, 4), "default_pg")}


def test_host_backends_have_completions_and_failures(read):
    builder = TraceBuilder(device="cpu")
    builder.collective("allreduce_", 0, returned=10, completed=50)
    builder.collective("allreduce_", 100, returned=110, failed=150)
    builder.collective("allreduce_", 200)
    calls = read(builder).collectives
    assert (calls["completed"] - START).tolist() == [50, 150, -1 - START]
    assert calls["failed"].tolist() == [False, True, False]
    assert calls["returned"].tolist()[2] == -1
    assert calls["device"].tolist() == [-1] * 3
    assert calls["path"].tolist() == [-1] * 3


def test_the_end_of_a_call_tells_its_unit(read):
    """A thread that only completes it does not; files from before there were units have none."""
    builder = TraceBuilder(device="cpu")
    builder.collective("_allgather_base_", 0, returned=10, completed=50, unit="Model blocks.1")
    again = builder.collective("_allgather_base_", 100, completed=150)
    ends = {"id": again, "tick": builder.tick(110), "phase": CollectivePhase.RETURNED}
    builder.record(Kind.COLLECTIVE_END, **ends, unit=builder.string("Model"))
    builder.record(Kind.COLLECTIVE_END, **ends, unit=builder.string("another"))
    builder.collective("barrier", 200, returned=210)
    builder.record(Kind.COLLECTIVE_END, id=77, tick=builder.tick(220), phase=1, unit=60_000)
    trace = read(builder)
    assert [trace.strings[unit] for unit in trace.collectives["unit"]] == ["Model blocks.1", "Model", ""]


def test_a_unit_that_the_file_does_not_name(read):
    builder = TraceBuilder()
    call = builder.collective("barrier", 0)
    builder.record(Kind.COLLECTIVE_END, id=call, tick=builder.tick(5), phase=CollectivePhase.RETURNED, unit=60_000)
    trace = read(builder)
    assert trace.strings[trace.collectives["unit"][0]] == "?60000"


def test_a_time_that_was_promised_can_be_taken_back(read):
    """TIMED is said when the call begins; only afterwards is it known that its work shows no time."""
    builder = TraceBuilder()
    promised = CollectiveFlags.ASYNC | CollectiveFlags.TIMED
    ends = {"phase": CollectivePhase.RETURNED, "flags": CollectiveEndFlags.UNTIMED}
    for at in (0, 100):
        call = builder.collective("allreduce_", at, flags=promised)
        builder.record(Kind.COLLECTIVE_END, id=call, tick=builder.tick(at + 10), **ends)
        ends["flags"] = 0
    builder.record(Kind.COLLECTIVE_END, id=77, tick=builder.tick(120), phase=1, flags=CollectiveEndFlags.UNTIMED)
    calls = read(builder).collectives
    assert calls["flags"].tolist() == [CollectiveFlags.ASYNC, promised]
    assert (calls["returned"] - START).tolist() == [10, 110]


# Memory.


def test_allocator_events_are_in_the_allocator_s_order(read):
    builder = TraceBuilder()
    scope = builder.scope("s", 0, 10_000)
    builder.alloc(0x1000, 512, 100, scope=scope, pool=0x80000001, stream=3, thread=2, sequence=2)
    builder.segment(0x1000, 2 << 20, 90, thread=1, sequence=1)
    builder.free(0x1000, 512, 200, completed=201, sequence=3)
    builder.free(0x2000, 512, 300, sequence=4)
    builder.alloc(0x9000, 1, 50, device=-1)
    builder.alloc(0x9999, 1, 400, thread=2, sequence=2)
    trace = read(builder)
    events = trace.allocator_events
    assert events["device"].tolist() == [-1, 0, 0, 0, 0]
    assert events["sequence"].tolist() == [1, 1, 2, 3, 4]
    assert (events["time"] - START).tolist() == [50, 90, 100, 200, 300]
    assert events["completed"].tolist() == [-1, -1, -1, START + 201, -1]
    row = events[2]
    assert (row["action"], row["address"], row["size"]) == (AllocatorAction.ALLOC, 0x1000, 512)
    assert (row["scope"], row["pool"], row["stream"], row["thread"]) == (scope, 0x80000001, 3, 2)
    assert trace.health.damage == ["1 allocator events with a sequence number that came before"]


def test_a_fold_that_is_half_published_is_not_complete(read):
    """`completed_after` is stored before the flag: a reader that comes in between sees a free that is not complete."""
    builder = TraceBuilder()
    builder.free(0x1000, 512, 200, completed_after=5)
    assert read(builder).allocator_events["completed"].tolist() == [-1]


def test_snapshots(read):
    builder = TraceBuilder()
    segment = {"address": 0x1000, "total": 4096, "blocks": 2, "flags": 3}
    blocks = [{"address": 0x1000, "size": 512, "segment": 0x1000}, {"address": 0x1200, "state": BlockState.INACTIVE}]
    builder.snapshot(1_000, [segment], blocks, reason="resume", allocated=512, reserved_bytes=4096, requested=500)
    builder.snapshot(500, [segment], reason="start", device=1, complete=False)
    builder.record(Kind.STATE_BEGIN, snapshot=1, tick=builder.tick(0))
    builder.record(Kind.STATE_BEGIN, snapshot=9, tick=builder.tick(2_000), reason=99, segments=4)
    builder.record(Kind.STATE_END, snapshot=9)
    trace = read(builder)
    early, late, cut = trace.snapshots
    assert (early.reason, early.device, early.complete, early.time - START) == ("start", 1, False, 500)
    assert (late.reason, late.device, late.complete, late.sequence) == ("resume", 0, True, 1)
    assert (late.allocated, late.reserved, late.requested) == (512, 4096, 500)
    assert late.segments["total"].tolist() == [4096]
    assert late.blocks["state"].tolist() == [BlockState.ALLOCATED, BlockState.INACTIVE]
    assert (cut.reason, cut.complete, len(cut.segments)) == ("unknown", False, 0)
    assert trace.health.damage == ["1 snapshots with a number that came before"]


def test_samples_and_the_recorder_s_own_news(read):
    builder = TraceBuilder()
    builder.sample(200, edge="stop", allocated=5, reserved_bytes=9, retries=1, sequence=77)
    builder.sample(100, allocated=4)
    builder.device_sample(150, sm_clock=1980, power=700_000)
    builder.recorder_sample(160, resolver_cpu=3, process_cpu=70, dropped=1, resident=1 << 20)
    builder.drop(170, 4)
    builder.gate(180, False)
    builder.gate(190, True)
    trace = read(builder)
    assert (trace.memory_samples["time"] - START).tolist() == [100, 200]
    assert trace.memory_samples["reserved"].tolist() == [0, 9]
    assert trace.allocator_samples[["retries", "sequence"]].tolist() == [(1, 77)]
    assert trace.device_samples["sm_clock"].tolist() == [1980]
    assert trace.recorder_samples["resident"].tolist() == [1 << 20]
    assert (trace.drops["total"].tolist(), (trace.drops["time"] - START).tolist()) == ([4], [170])
    assert trace.gates.tolist() == [(START + 180, False), (START + 190, True)]
    assert len(trace.anchors) == 4
    assert (trace.health.dropped, trace.health.resolver_cpu, trace.health.process_cpu) == (4, 3, 70)


def test_an_empty_recording(read):
    trace = read(TraceBuilder(anchors=False))
    for name in ("scopes", "collectives", "allocator_events", "memory_samples", "marks", "drops", "gates", "anchors"):
        assert len(getattr(trace, name)) == 0
    assert (trace.paths, trace.strings, trace.groups, trace.snapshots) == ([], [""], {}, [])
    assert trace.path_of(np.array([1, 2])).tolist() == [-1, -1]
