import pytest

from made_trace import TraceBuilder
from wanhook.analysis.memory import Comparison, memory_of
from wanhook.tracefile.model import load

MIB = 1 << 20
A, B, C = 0x10000000, 0x20000000, 0x30000000


@pytest.fixture
def builder():
    """Reserves 64 MiB, of which 10 MiB were allocated before the recording."""
    builder = TraceBuilder()
    segment = {"address": A, "total": 64 * MIB}
    block = {"address": A, "size": 10 * MIB, "requested": 10 * MIB - 100}
    builder.snapshot(10, [segment], [block], reserved_bytes=64 * MIB, requested=10 * MIB - 100)
    return builder


def memory(builder, tmp_path):
    (found,) = memory_of(load(builder.save(tmp_path / "a.wanhook")).traces)
    return found


def owners(moment):
    return [(owner.path or owner.kind, owner.bytes, owner.blocks) for owner in moment.owners]


def test_reserved_peak_and_what_is_live_then(builder, tmp_path):
    step = builder.scope("step", 20, 900)
    builder.alloc(B, 30 * MIB, 100, scope=step)
    builder.segment(C, 32 * MIB, 200, scope=step)
    builder.alloc(C, 20 * MIB, 210, scope=step)
    builder.free(B, 30 * MIB, 300, completed=300)
    builder.allocator(5, C, 32 * MIB, 400)
    found = memory(builder, tmp_path)
    assert (found.reserved_start_bytes, found.reserved_end_bytes) == (64 * MIB, 64 * MIB)
    assert (found.reserved_peak.reserved_bytes, found.reserved_peak.at_ns) == (96 * MIB, 200)
    assert found.reserved_peak.requested_bytes == 40 * MIB - 100
    assert owners(found.reserved_peak) == [("step", 30 * MIB, 1), ("before recording", 10 * MIB - 100, 1)]
    assert (found.requested_peak.requested_bytes, found.requested_peak.at_ns) == (60 * MIB - 100, 210)
    assert (found.requested_peak.reserved_bytes, found.requested_peak.path) == (96 * MIB, "step")
    assert owners(found.requested_peak) == [("step", 50 * MIB, 2), ("before recording", 10 * MIB - 100, 1)]
    assert (found.requested_start_bytes, found.requested_end_bytes) == (10 * MIB - 100, 30 * MIB - 100)
    assert found.inexact == []


def test_expandable_segments_are_mapped_and_unmapped(builder, tmp_path):
    builder.allocator(6, B, 20 * MIB, 100)
    builder.allocator(7, B, 18 * MIB, 200)
    found = memory(builder, tmp_path)
    assert (found.reserved_peak.reserved_bytes, found.reserved_end_bytes) == (84 * MIB, 66 * MIB)


def test_owners_by_path_by_lost_scope_and_outside_of_scopes(builder, tmp_path):
    outer = builder.scope("request", 20, 900)
    for number in range(2):
        inner = builder.scope("step", 30 + 10 * number, 39 + 10 * number, parent=outer)
        builder.alloc(B + number * MIB, 1000, 31 + 10 * number, scope=inner)
    builder.alloc(C, 500, 60, scope=0)
    builder.alloc(C + MIB, 300, 61, scope=77)
    assert owners(memory(builder, tmp_path).requested_peak)[1:] == [
        ("request/step", 2000, 2),
        ("outside scopes", 500, 1),
        ("unknown scope", 300, 1),
    ]


def test_deferred_free_lives_until_it_is_completed(builder, tmp_path):
    builder.alloc(B, 1000, 100)
    builder.free(B, 1000, 200)
    builder.alloc(C, 50, 300)
    builder.allocator(3, B, 1000, 400)
    found = memory(builder, tmp_path)
    assert found.requested_peak.requested_bytes - found.requested_start_bytes == 1050
    assert found.requested_end_bytes - found.requested_start_bytes == 50


def test_peaks_inside_scopes(builder, tmp_path):
    outer = builder.scope("request", 20, 900)
    first = builder.scope("step", 100, 200, parent=outer)
    builder.alloc(B, 1000, 110, scope=first)
    builder.alloc(C, 200, 120, scope=first)
    builder.free(B, 1000, 130, completed=130)
    second = builder.scope("step", 300, 400, parent=outer)
    builder.segment(A + 64 * MIB, 2 * MIB, 310)
    builder.alloc(B, 500, 310, scope=second)
    builder.scope("quiet", 500, 600, parent=outer)
    base = 10 * MIB - 100
    peaks = {peak.path: peak for peak in memory(builder, tmp_path).scopes}
    step, quiet = peaks["request/step"], peaks["request/quiet"]
    assert (step.occurrences, step.requested_bytes, step.requested_rise_bytes) == (2, base + 1200, 1200)
    assert step.reserved_bytes == 66 * MIB
    assert (quiet.requested_bytes, quiet.requested_rise_bytes) == (base + 700, 0)
    assert peaks["request"].requested_rise_bytes == 1200


def test_scope_from_before_the_first_snapshot_rises_from_it(tmp_path):
    builder = TraceBuilder()
    builder.scope("request", 0, 900)
    builder.snapshot(10, [], [{"address": A, "size": 1024, "requested": 1000}], requested=1000)
    builder.alloc(B, 50, 100, scope=1)
    (peak,) = memory(builder, tmp_path).scopes
    assert (peak.requested_bytes, peak.requested_rise_bytes) == (1050, 50)


def test_open_scope_lasts_to_the_end(builder, tmp_path):
    builder.scope("request", 20, None)
    builder.alloc(B, 1000, 500, scope=1)
    assert memory(builder, tmp_path).scopes[0].requested_rise_bytes == 1000


def test_torchs_counters_stand_beside_ours(builder, tmp_path):
    start = {"requested": 10 * MIB - 100, "reserved_bytes": 64 * MIB, "allocated": 10 * MIB}
    builder.sample(50, **start, device_free=70 * MIB, device_total=170 * MIB)
    builder.alloc(B, 1000, 100)
    builder.sample(150, requested=10 * MIB + 900, reserved_bytes=66 * MIB, allocated=11 * MIB)
    builder.snapshot(200, reason="stop", requested=10 * MIB + 400, reserved_bytes=64 * MIB)
    found = memory(builder, tmp_path)
    assert found.compared_requested == Comparison(places=3, equal=2, largest_difference_bytes=500)
    assert found.compared_reserved == Comparison(places=3, equal=2, largest_difference_bytes=2 * MIB)
    assert (found.torch_allocated_bytes, found.torch_reserved_bytes) == (11 * MIB, 66 * MIB)
    assert found.device_used_bytes == 100 * MIB


def test_state_is_known_again_after_a_pause(builder, tmp_path):
    step = builder.scope("step", 20, 300)
    builder.alloc(B, 1000, 100, scope=step)
    builder.alloc(C, 70, 110, scope=step)
    builder.gate(200, False)
    builder.gate(500, True)
    blocks = [
        {"address": B, "size": 1024, "requested": 1000},
        {"address": C, "size": 512, "requested": 77},
        {"address": A, "size": 10 * MIB, "requested": 10 * MIB - 100},
    ]
    builder.snapshot(510, [], blocks, reason="resume", reserved_bytes=128 * MIB, requested=10 * MIB + 977)
    builder.alloc(C + MIB, 5, 600)
    found = memory(builder, tmp_path)
    assert found.reserved_peak.reserved_bytes == 128 * MIB
    assert found.requested_end_bytes == 10 * MIB + 982
    assert owners(found.requested_peak) == [
        ("before recording", 10 * MIB - 100, 1),
        ("step", 1000, 1),
        ("while not recording", 77, 1),
        ("outside scopes", 5, 1),
    ]
    assert found.inexact == ["recording was paused, and peaks inside pauses are not seen"]


def test_without_a_snapshot_figures_count_from_nothing_and_say_so(tmp_path):
    builder = TraceBuilder()
    builder.segment(A, 2 * MIB, 5)
    builder.alloc(A, 1000, 10)
    builder.free(B, 500, 20, completed=20)
    found = memory(builder, tmp_path)
    assert (found.reserved_peak.reserved_bytes, found.requested_peak.requested_bytes) == (2 * MIB, 1000)
    assert found.inexact == ["without an initial snapshot, what was allocated before the recording is missing"]


def test_reserved_before_the_first_snapshot_follows_backwards_from_it(tmp_path):
    builder = TraceBuilder()
    builder.allocator(5, B, 20 * MIB, 5)
    builder.snapshot(10, [], [], reserved_bytes=30 * MIB)
    found = memory(builder, tmp_path)
    assert (found.reserved_peak.reserved_bytes, found.reserved_start_bytes) == (50 * MIB, 30 * MIB)


def test_snapshot_that_was_cut_off_does_not_count(builder, tmp_path):
    builder.snapshot(500, [], [{"address": B, "size": 512, "requested": 512}], reason="resync", complete=False)
    assert memory(builder, tmp_path).requested_end_bytes == 10 * MIB - 100


def test_drops_make_it_inexact(builder, tmp_path):
    builder.drop(100, 7)
    assert memory(builder, tmp_path).inexact == ["records were dropped (7)"]


def test_out_of_memory(builder, tmp_path):
    step = builder.scope("step", 20, 300)
    builder.allocator(9, 5 * MIB, 100 * MIB, 100, scope=step)
    (failed,) = memory(builder, tmp_path).out_of_memory
    assert (failed.at_ns, failed.path) == (100, "step")
    assert (failed.requested_bytes, failed.device_free_bytes) == (100 * MIB, 5 * MIB)


def test_cpu_frees_find_their_block_by_address(tmp_path):
    builder = TraceBuilder(device="cpu")
    step = builder.scope("step", 0, 900)
    builder.alloc(A, 1000, 100, scope=step)
    builder.alloc(B, 300, 110, scope=step)
    builder.free(A, 0, 200, completed=200)
    builder.free(C, 0, 210, completed=210)  # of a tensor from before the recording
    found = memory(builder, tmp_path)
    assert (found.reserved_peak, found.reserved_end_bytes, found.device) == (None, None, -1)
    assert (found.requested_peak.requested_bytes, found.requested_end_bytes) == (1300, 300)
    assert found.scopes[0].reserved_bytes is None
    assert found.inexact == []


def test_devices_of_one_process_are_apart(builder, tmp_path):
    builder.alloc(B, 1000, 100)
    builder.alloc(B, 70, 100, device=1)
    found = memory_of(load(builder.save(tmp_path / "a.wanhook")).traces)
    grown = [(state.device, state.requested_end_bytes - state.requested_start_bytes) for state in found]
    assert grown == [(0, 1000), (1, 70)]


def test_no_events_no_memory(tmp_path):
    assert memory_of(load(TraceBuilder().save(tmp_path / "a.wanhook")).traces) == []
