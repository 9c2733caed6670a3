"""Allocator events on a GPU: exactly those that torch counts itself, in torch's own order."""

import threading

import pytest
import torch

from gpu.allocating import counters, growth, random_operations
from gpu.processes import Program, run_together
from gpu.recorded import (
    assert_healthy,
    assert_no_gap,
    folded,
    of_action,
    only_trace,
    own_events,
    own_snapshots,
    recorded,
    recorded_counts,
    scopes_named,
)
from gpu.spinning import calibrate, spin

pytestmark = pytest.mark.gpu

MIB = 1 << 20
OPERATIONS = 3000


def run_out_of_memory() -> int:
    """One refused allocation, caught; the driver's free bytes right after it."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    fraction = (torch.cuda.memory_reserved() + 512 * MIB) / total
    torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2048 * MIB, dtype=torch.uint8, device="cuda")
        return torch.cuda.mem_get_info()[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_every_event_is_recorded_once(tmp_path, quiet_allocator):
    keep = torch.zeros(3 * MIB, device="cuda")
    with recorded(tmp_path) as recording:
        before = counters()
        random_operations(seed=1, count=OPERATIONS)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        expected = growth(before)
    del keep
    assert expected["ALLOC"] > OPERATIONS // 3
    assert expected["SEGMENT_FREE"] > 0
    assert recorded_counts(recording.trace) == expected
    assert_no_gap(recording.trace)
    assert_healthy(recording.trace)


def test_threads_share_one_order(tmp_path, quiet_allocator):
    with recorded(tmp_path) as recording:
        before = counters()
        threads = [threading.Thread(target=random_operations, args=(seed, 500)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        expected = growth(before)
    assert recorded_counts(recording.trace) == expected
    assert_no_gap(recording.trace)
    assert len(set(of_action(recording.trace, "ALLOC")["thread"].tolist())) == 4


def test_out_of_memory_carries_the_free_bytes(tmp_path, quiet_allocator):
    with recorded(tmp_path) as recording:
        before = counters()
        free = run_out_of_memory()
        expected = growth(before)
    (event,) = of_action(recording.trace, "OOM")
    assert expected["OOM"] == 1
    assert recorded_counts(recording.trace) == expected
    assert event["size"] == 2048 * MIB
    assert abs(int(event["address"]) - free) <= 64 * MIB


def test_snapshots_hold_the_allocators_totals(tmp_path, quiet_allocator):
    keep = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in (700, 5 * MIB, 33 * MIB)]
    before = torch.cuda.memory_stats()
    with recorded(tmp_path) as recording:
        random_operations(seed=2, count=300)
        keep.append(torch.empty(9 * MIB, dtype=torch.uint8, device="cuda"))
        torch.cuda.synchronize()
        after = torch.cuda.memory_stats()
    trace = recording.trace
    placed = set(of_action(trace, "SNAPSHOT")["sequence"].tolist())
    for snapshot, reason, stats in zip(own_snapshots(trace), ("start", "stop"), (before, after), strict=True):
        assert snapshot.reason == reason
        assert snapshot.complete
        assert snapshot.sequence in placed
        assert (snapshot.allocated, snapshot.reserved) == (
            stats["allocated_bytes.all.current"], stats["reserved_bytes.all.current"])  # fmt: skip
        assert (snapshot.active, snapshot.requested) == (
            stats["active_bytes.all.current"], stats["requested_bytes.all.current"])  # fmt: skip
        assert snapshot.segments["total"].sum() == snapshot.reserved
        assert snapshot.blocks["size"].sum() == snapshot.reserved
    assert_events_lead_from_one_to_the_other(trace)


def assert_events_lead_from_one_to_the_other(trace) -> None:
    """Initial state plus events give the final requested and reserved bytes."""
    first, last = own_snapshots(trace)
    events = own_events(trace)

    def total(action: str) -> int:
        return int(of_action(trace, action)["size"].astype("i8").sum())

    completed = total("FREE_COMPLETED") + int(events["size"][folded(events)].astype("i8").sum())
    assert first.requested + total("ALLOC") - completed == last.requested
    assert first.reserved + total("SEGMENT_ALLOC") - total("SEGMENT_FREE") == last.reserved


def test_only_an_immediate_completion_is_folded(tmp_path, quiet_allocator):
    calibrate()
    side = torch.cuda.Stream()
    at_once = torch.empty(2 * MIB, dtype=torch.uint8, device="cuda")
    deferred = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    with recorded(tmp_path) as recording:
        with torch.cuda.stream(side):
            spin(50_000)
        deferred.record_stream(side)
        del at_once, deferred
        between = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        behind = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
    del between, behind
    requests = {int(event["size"]): event for event in of_action(recording.trace, "FREE_REQUESTED")}
    immediate, later = requests[2 * MIB], requests[3 * MIB]
    assert folded(immediate)
    assert 0 <= immediate["completed"] - immediate["time"] < 1_000_000
    assert not folded(later)
    assert later["completed"] == -1
    (completion,) = of_action(recording.trace, "FREE_COMPLETED")
    assert completion["address"] == later["address"]
    assert completion["time"] - later["time"] > 10_000_000


def test_events_know_the_scope_that_caused_them(tmp_path, quiet_allocator):
    import wanhook

    with recorded(tmp_path) as recording:
        with wanhook.trace("outer"), wanhook.trace("inner", level="op"):
            tensor = torch.empty(7 * MIB, dtype=torch.uint8, device="cuda")
        del tensor
    (event,) = (each for each in of_action(recording.trace, "ALLOC") if each["size"] == 7 * MIB)
    assert event["scope"] == scopes_named(recording.trace, "inner")["id"][0]
    assert event["stream"] == torch.cuda.current_stream().cuda_stream


@pytest.fixture(scope="module")
def settings_programs(tmp_path_factory):
    """Programs that differ in what a process settles once: when CUDA comes up, and the allocator's settings."""
    folder = tmp_path_factory.mktemp("settings")
    asked = {name: (name, {}) for name in ("before", "after", "during")}
    asked["expandable"] = ("after", {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
    programs = {
        name: Program("allocations", moment, folder / name, environment=environment)
        for name, (moment, environment) in asked.items()
    }
    finished = run_together(list(programs.values()), timeout=120)
    return {name: (end, folder / name) for name, end in zip(programs, finished, strict=True)}


@pytest.mark.parametrize("moment", ["before", "after", "during"])
def test_cuda_may_come_up_at_any_time(settings_programs, moment):
    """CUDA is initialised before `import wanhook`, after it, or while a recording runs."""
    finished, folder = settings_programs[moment]
    expected = finished.answer
    trace = only_trace(folder)
    assert recorded_counts(trace) == expected["growth"]
    assert_no_gap(trace)
    assert trace.device_type == "cuda"
    assert len(scopes_named(trace, "work")) == 1
    assert scopes_named(trace, "work")["gpu_end"][0] > 0
    stop = own_snapshots(trace)[-1]
    assert stop.reason == "stop"
    assert (stop.allocated, stop.reserved) == (expected["allocated"], expected["reserved"])


def test_expandable_segments_have_snapshots_and_maps(settings_programs):
    """torch counts no `segment` for them, so a device is not unused because that counter is zero."""
    finished, folder = settings_programs["expandable"]
    expected = finished.answer
    trace = only_trace(folder)
    assert [snapshot.reason for snapshot in own_snapshots(trace)] == ["start", "stop"]
    first, last = own_snapshots(trace)
    assert (last.allocated, last.reserved) == (expected["allocated"], expected["reserved"])
    mapped = int(of_action(trace, "SEGMENT_MAP")["size"].sum()) - int(of_action(trace, "SEGMENT_UNMAP")["size"].sum())
    assert mapped > 0
    assert first.reserved + mapped == last.reserved
