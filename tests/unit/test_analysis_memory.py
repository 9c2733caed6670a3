import pytest

from made_allocator import MIB, MadeAllocator
from made_trace import TraceBuilder
from wanhook.analysis.memory import memory_of
from wanhook.tracefile.format import AllocatorAction, BlockState
from wanhook.tracefile.model import load


@pytest.fixture
def builder():
    return TraceBuilder()


@pytest.fixture
def device(builder):
    """Reserves 64 MiB, of which 10 MiB were allocated before the recording."""
    device = MadeAllocator(builder, begin=False)
    device.segments[SEGMENT] = 64 * MIB, 7
    device.blocks[SEGMENT] = 10 * MIB
    device.snapshot(10, "start")
    return device


SEGMENT = 0x7E0000000000
BEFORE = 10 * MIB


def memory(builder, tmp_path):
    (found,) = memory_of(load(builder.save(tmp_path / "a.wanhook")).traces)
    return found


def owners(peak):
    return [(one.source.path or one.source.kind, one.allocated_bytes, one.blocks) for one in peak.owners]


def test_peaks_and_what_is_live_then(builder, device, tmp_path):
    step = builder.scope("step", 20, 900)
    device.alloc(SEGMENT + BEFORE, 30 * MIB, 100, scope=step)
    segment = device.segment(32 * MIB, 200, scope=step)
    device.alloc(segment, 20 * MIB, 210, scope=step)
    cached = device.alloc(segment + 20 * MIB, 12 * MIB, 220, scope=step)
    device.free(cached, 230, scope=step)
    device.free(SEGMENT + BEFORE, 300)
    device.free(segment, 310)
    device.drop_segment(segment, 400)
    found = memory(builder, tmp_path)
    assert (found.start.reserved_bytes, found.end.reserved_bytes) == (64 * MIB, 64 * MIB)
    held, peak = found.reserved_peak, found.allocated_peak
    assert (held.moment.reserved_bytes, held.moment.at_ns, held.moment.path) == (96 * MIB, 210, "step")
    assert (held.moment.allocated_bytes, held.moment.free_bytes) == (60 * MIB, 36 * MIB)
    assert held.moment.largest_free_bytes == 24 * MIB
    assert owners(held) == [("step", 50 * MIB, 2), ("before recording", 10 * MIB, 1)]
    assert (peak.moment.allocated_bytes, peak.moment.at_ns, peak.moment.path) == (72 * MIB, 220, "step")
    assert owners(peak) == [("step", 62 * MIB, 3), ("before recording", 10 * MIB, 1)]
    assert (found.start.allocated_bytes, found.end.allocated_bytes) == (BEFORE, BEFORE)
    assert found.fragmentation.unused_share == pytest.approx(1 - 72 / 96)
    assert found.inexact == []


def test_block_is_rounded_up_and_requested_is_not(builder, device, tmp_path):
    device.alloc(SEGMENT + BEFORE, 2 * MIB - 100, 100)
    end = memory(builder, tmp_path).end
    assert (end.requested_bytes, end.allocated_bytes) == (BEFORE + 2 * MIB - 100, BEFORE + 2 * MIB)


def test_expandable_segments_are_mapped_and_unmapped(builder, device, tmp_path):
    builder.allocator(AllocatorAction.SEGMENT_MAP, SEGMENT << 1, 20 * MIB, 100)
    builder.allocator(AllocatorAction.SEGMENT_UNMAP, SEGMENT << 1, 18 * MIB, 200)
    found = memory(builder, tmp_path)
    assert (found.reserved_peak.moment.reserved_bytes, found.end.reserved_bytes) == (84 * MIB, 66 * MIB)


def test_owners_by_path_by_lost_scope_and_outside_of_scopes(builder, device, tmp_path):
    outer = builder.scope("request", 20, 900)
    place = SEGMENT + BEFORE
    for number in range(2):
        inner = builder.scope("step", 30 + 10 * number, 39 + 10 * number, parent=outer)
        place = device.alloc(place, 3 * MIB, 31 + 10 * number, scope=inner) + 3 * MIB
    device.alloc(place, 2 * MIB, 60, scope=0)
    device.alloc(place + 2 * MIB, MIB + MIB // 2, 61, scope=77)
    assert owners(memory(builder, tmp_path).allocated_peak)[1:] == [
        ("request/step", 6 * MIB, 2),
        ("outside scopes", 2 * MIB, 1),
        ("unknown scope", MIB + MIB // 2, 1),
    ]


def test_deferred_free_is_active_until_it_is_completed(builder, device, tmp_path):
    block = device.alloc(SEGMENT + BEFORE, 4 * MIB, 100)
    device.request_free(block, 200)
    device.alloc(SEGMENT + BEFORE + 4 * MIB, 2 * MIB, 300)
    device.complete_free(block, 400)
    found = memory(builder, tmp_path)
    assert found.allocated_peak.moment.allocated_bytes - BEFORE == 4 * MIB
    assert found.active_peak_bytes - BEFORE == 6 * MIB
    assert found.end.active_bytes - BEFORE == 2 * MIB


def test_inside_scopes(builder, device, tmp_path):
    free = SEGMENT + BEFORE
    outer = builder.scope("request", 20, 900)
    first = builder.scope("step", 100, 200, parent=outer)
    device.alloc(free, 4 * MIB, 110, scope=first)
    device.alloc(free + 4 * MIB, 2 * MIB, 120, scope=first)
    device.free(free, 130)
    second = builder.scope("step", 300, 400, parent=outer)
    segment = device.segment(20 * MIB, 310)
    device.alloc(segment, 3 * MIB, 310, scope=second)
    device.free(segment, 395)
    builder.scope("quiet", 500, 600, parent=outer)
    rows = {row.path: row for row in memory(builder, tmp_path).scopes}
    step, quiet, request = rows["request/step"], rows["request/quiet"], rows["request"]
    assert step.occurrences == 2
    assert (step.allocated_peak.max_bytes, step.allocated_peak.mean_bytes) == (BEFORE + 6 * MIB, BEFORE + 5.5 * MIB)
    assert (step.activation.max_bytes, step.activation.mean_bytes) == (6 * MIB, 4.5 * MIB)
    assert (step.growth.max_bytes, step.growth.mean_bytes) == (2 * MIB, MIB)
    assert (step.left_behind.max_bytes, step.left_behind.mean_bytes) == (2 * MIB, MIB)
    assert (step.reserved_peak.max_bytes, step.reserved_peak.mean_bytes) == (84 * MIB, 74 * MIB)
    assert (quiet.allocated_peak.max_bytes, quiet.activation.max_bytes) == (BEFORE + 2 * MIB, 0)
    assert (request.activation.max_bytes, request.left_behind.max_bytes) == (6 * MIB, 2 * MIB)


def test_left_behind_is_what_the_scope_itself_allocated(builder, device, tmp_path):
    """Another thread's memory counts into growth, which is the process's, not into what a scope left behind."""
    step = builder.scope("step", 100, 200)
    other = builder.scope("other", 100, 200, thread=2)
    device.alloc(SEGMENT + BEFORE, 4 * MIB, 110, scope=step)
    device.alloc(SEGMENT + BEFORE + 4 * MIB, 2 * MIB, 120, scope=other, thread=2)
    rows = {row.path: row for row in memory(builder, tmp_path).scopes}
    assert (rows["step"].growth.max_bytes, rows["step"].left_behind.max_bytes) == (6 * MIB, 4 * MIB)
    assert (rows["other"].growth.max_bytes, rows["other"].left_behind.max_bytes) == (6 * MIB, 2 * MIB)


def test_left_behind_by_a_scope_whose_worker_goes_on_is_what_there_was_at_its_end(builder, device, tmp_path):
    request = builder.scope("request", 100, 200)
    worker = builder.scope("worker", 110, 400, parent=request, thread=2)
    at = SEGMENT + BEFORE
    device.alloc(at, 4 * MIB, 120, scope=worker, thread=2)
    device.free(at, 300, scope=worker, thread=2)
    device.alloc(at, 2 * MIB, 310, scope=worker, thread=2)  # the request was over
    rows = {row.path: row for row in memory(builder, tmp_path).scopes}
    assert rows["request"].left_behind.max_bytes == 4 * MIB
    assert rows["request/worker"].left_behind.max_bytes == 2 * MIB


def test_scope_from_before_the_first_snapshot_begins_with_it(builder, tmp_path):
    builder.scope("request", 0, 900)
    device = MadeAllocator(builder, begin=False)
    device.segments[SEGMENT], device.blocks[SEGMENT] = (64 * MIB, 7), 10 * MIB
    device.snapshot(10, "start")
    device.alloc(SEGMENT + BEFORE, 2 * MIB, 100, scope=1)
    (row,) = memory(builder, tmp_path).scopes
    assert (row.allocated_peak.max_bytes, row.activation.max_bytes) == (BEFORE + 2 * MIB, 2 * MIB)


def test_open_scope_lasts_to_the_end(builder, device, tmp_path):
    builder.scope("request", 20, None)
    device.alloc(SEGMENT + BEFORE, 2 * MIB, 500, scope=1)
    (row,) = memory(builder, tmp_path).scopes
    assert row.activation.max_bytes == 2 * MIB
    assert row.instances[0].end_ns is None


def test_state_is_known_again_after_a_pause(builder, device, tmp_path):
    step = builder.scope("step", 20, 300)
    kept = device.alloc(SEGMENT + BEFORE, 2 * MIB, 100, scope=step)
    device.alloc(kept + 2 * MIB, 4 * MIB, 110, scope=step)
    builder.gate(200, False)
    builder.gate(500, True)
    device.blocks[kept + 2 * MIB] = 6 * MIB  # freed, and something larger took its place
    device.segments[SEGMENT << 1] = 64 * MIB, 7
    device.snapshot(510, "resume")
    device.alloc(SEGMENT << 1, 3 * MIB, 600)
    found = memory(builder, tmp_path)
    assert found.reserved_peak.moment.reserved_bytes == 128 * MIB
    assert found.end.allocated_bytes == BEFORE + 11 * MIB
    assert owners(found.allocated_peak) == [
        ("before recording", 10 * MIB, 1),
        ("while not recording", 6 * MIB, 1),
        ("outside scopes", 3 * MIB, 1),
        ("step", 2 * MIB, 1),
    ]
    assert found.inexact == ["recording was paused, and peaks inside pauses are not seen"]


def test_block_of_the_same_place_and_size_that_was_asked_for_anew_in_a_pause(builder, device, tmp_path):
    step = builder.scope("step", 20, 300)
    at = SEGMENT + BEFORE
    builder.alloc(at, 2 * MIB - 5, 100, scope=step)
    builder.alloc(at + 2 * MIB, 4 * MIB - 5, 110, scope=step)
    builder.gate(200, False)
    builder.gate(500, True)
    device.blocks |= {at: 2 * MIB, at + 2 * MIB: 4 * MIB}
    segments, blocks = device.state()
    asked = {at: 2 * MIB - 7, at + 2 * MIB: 4 * MIB - 5}
    blocks = [block | {"requested": asked.get(block["address"], block["size"])} for block in blocks]
    builder.snapshot(510, segments, blocks, reason="resume")
    builder.alloc(at + 6 * MIB, 3 * MIB, 600)
    peak = memory(builder, tmp_path).allocated_peak
    assert owners(peak) == [
        ("before recording", 10 * MIB, 1),
        ("step", 4 * MIB, 1),
        ("outside scopes", 3 * MIB, 1),
        ("while not recording", 2 * MIB, 1),
    ]
    assert sum(owner.requested_bytes for owner in peak.owners) == peak.moment.requested_bytes


def test_a_free_that_waits_across_a_known_state_was_asked_for_before_it(builder, device, tmp_path):
    step = builder.scope("step", 20, 300)
    block = device.alloc(SEGMENT + BEFORE, 2 * MIB, 100, scope=step)
    device.request_free(block, 200)
    segments, blocks = device.state()
    waiting = [row | {"state": BlockState.PENDING_FREE} if row["address"] == block else row for row in blocks]
    builder.snapshot(400, [segments[0] | {"allocated": BEFORE}], waiting, reason="resume")
    device.complete_free(block, 900)
    found = memory(builder, tmp_path)
    assert found.check.exact
    assert (found.deferred.frees, found.deferred.wait.mean_ns) == (1, 700)
    assert found.scopes[0].left_behind.max_bytes == 0


def test_a_free_that_a_pause_hid_has_no_length(builder, device, tmp_path):
    seen, hidden = (device.alloc(SEGMENT + BEFORE + place * MIB, 2 * MIB, 100) for place in (0, 2))
    device.request_free(seen, 150)
    builder.gate(200, False)
    builder.gate(500, True)
    segments, blocks = device.state()
    waiting = {"state": BlockState.PENDING_FREE}
    blocks = [row | waiting if row["address"] in (seen, hidden) else row for row in blocks]
    builder.snapshot(510, [segments[0] | {"allocated": BEFORE}], blocks, reason="resume")
    device.complete_free(seen, 600)
    device.complete_free(hidden, 600)
    deferred = memory(builder, tmp_path).deferred
    assert (deferred.frees, deferred.bytes, deferred.wait.max_ns, deferred.peak_bytes) == (1, 2 * MIB, 450, 4 * MIB)


def test_without_a_snapshot_it_says_so(builder, tmp_path):
    device = MadeAllocator(builder, begin=False)
    device.alloc(device.segment(20 * MIB, 5, sequence=7), 4 * MIB, 10, sequence=8)
    found = memory(builder, tmp_path)
    assert found.inexact == ["no snapshot tells what was allocated before the recording"]


def test_snapshot_that_was_cut_off_does_not_count(builder, device, tmp_path):
    builder.snapshot(500, [], [{"address": 512, "size": 512, "requested": 512}], reason="resync", complete=False)
    assert memory(builder, tmp_path).end.allocated_bytes == BEFORE


def test_drops_make_it_inexact(builder, device, tmp_path):
    builder.drop(100, 7)
    assert memory(builder, tmp_path).inexact == ["records were dropped (7)"]


def test_cpu_frees_find_their_block_by_address(tmp_path):
    builder = TraceBuilder(device="cpu")
    step = builder.scope("step", 0, 900)
    builder.alloc(0x1000, 1000, 100, scope=step)
    builder.alloc(0x2000, 300, 110, scope=step)
    builder.free(0x1000, 0, 200, completed=200)
    builder.free(0x3000, 0, 210, completed=210)  # of a tensor from before the recording
    found = memory(builder, tmp_path)
    assert (found.reserved_peak, found.end.reserved_bytes, found.device) == (None, None, -1)
    assert (found.allocated_peak.moment.allocated_bytes, found.end.allocated_bytes) == (1300, 300)
    assert (found.scopes[0].reserved_peak, found.scopes[0].left_behind.max_bytes) == (None, 300)
    assert (found.pins, found.churn, found.deferred, found.fragmentation) == ([], [], None, None)
    assert found.inexact == []


def test_devices_of_one_process_are_apart(builder, device, tmp_path):
    device.alloc(SEGMENT + BEFORE, 2 * MIB, 100)
    builder.snapshot(5, device=1)
    builder.segment(0x1000000, 20 * MIB, 99, device=1)
    builder.alloc(0x1000000, 3 * MIB, 100, device=1)
    found = memory_of(load(builder.save(tmp_path / "a.wanhook")).traces)
    grown = [(state.device, state.end.allocated_bytes - state.start.allocated_bytes) for state in found]
    assert grown == [(0, 2 * MIB), (1, 3 * MIB)]


def test_no_events_no_memory(tmp_path):
    assert memory_of(load(TraceBuilder().save(tmp_path / "a.wanhook")).traces) == []


# Over time -----------------------------------------------------------------------------------------------------------


def test_series_has_a_row_a_state_when_there_are_few(builder, device, tmp_path):
    block = device.alloc(SEGMENT + BEFORE, 2 * MIB, 100)
    device.free(block, 200)
    series = memory(builder, tmp_path).series
    assert series.time_ns == series.until_ns == [10, 100, 200]
    assert series.least == series.most
    assert series.most["allocated"] == [BEFORE, BEFORE + 2 * MIB, BEFORE]
    assert series.most["free"] == series.most["largest_free"] == [54 * MIB, 52 * MIB, 54 * MIB]


def test_series_loses_no_extreme(builder, device, tmp_path):
    peak = device.alloc(SEGMENT + BEFORE, 20 * MIB, 100)
    device.free(peak, 101)
    for number in range(2000):
        at = 200 + 2 * number
        device.free(device.alloc(SEGMENT + BEFORE, 2 * MIB, at), at + 1)
    series = memory(builder, tmp_path).series
    assert len(series.time_ns) == len(series.until_ns) == 512
    assert (max(series.most["allocated"]), min(series.least["allocated"])) == (BEFORE + 20 * MIB, BEFORE)
    assert series.time_ns == sorted(series.time_ns)
    assert series.until_ns[-1] == 200 + 2 * 1999 + 1
    assert min(series.least["free"]) == 34 * MIB


# Where nothing was recorded -------------------------------------------------------------------------------------------


def test_muted_steps_on_a_gpu_leave_nothing_stale(builder, device, tmp_path):
    """Each muted step frees what the one before it kept, and keeps as much at another place."""
    kept = device.alloc(SEGMENT + BEFORE, 4 * MIB, 50)
    for number in range(4):
        begin = 100 + 100 * number
        builder.gate(begin - 1, False)
        builder.scope("denoise_step", begin, begin + 50, verify="muted")
        builder.gate(begin + 51, True)
        del device.blocks[kept]
        kept += 4 * MIB
        device.blocks[kept] = 4 * MIB
        device.snapshot(begin + 52, "resume")
    found = memory(builder, tmp_path)
    assert (found.allocated_peak.moment.allocated_bytes, found.end.allocated_bytes) == (14 * MIB, 14 * MIB)
    assert (found.end_known, found.check.contradictions, found.check.first_difference) == (True, 0, None)
    assert [row.path for row in found.scopes] == []  # of the inside of muted steps nothing is said


def test_pause_without_a_state_behind_it_ends_the_claim(builder, device, tmp_path):
    block = device.alloc(SEGMENT + BEFORE, 4 * MIB, 100)
    builder.gate(200, False)
    builder.gate(300, True)
    builder.alloc(block, 4 * MIB, 400)  # freed and allocated again: no contradiction, as it was not watched
    builder.alloc(block + 8 * MIB, 30 * MIB, 500)
    builder.scope("late", 450, 600)
    found = memory(builder, tmp_path)
    assert (found.allocated_peak.moment.allocated_bytes, found.allocated_peak.moment.at_ns) == (14 * MIB, 100)
    assert (found.end_known, found.check.contradictions, found.scopes) == (False, 0, [])
    assert found.inexact[0].startswith("recording was paused")
    assert found.inexact[1].startswith("peaks leave out the ")


def cpu_state(builder, at, blocks, reason):
    rows = [{"address": address, "size": size, "requested": size, "state": 1} for address, size in blocks.items()]
    total = sum(blocks.values())
    builder.snapshot(at, [], rows, reason=reason, device=-1, allocated=total, active=total, requested=total)


def test_cpu_is_known_again_by_its_state(tmp_path):
    builder = TraceBuilder(device="cpu")
    kept = builder.scope("kept", 0, 900)
    builder.alloc(0x1000, 1000, 100, scope=kept)
    builder.alloc(0x2000, 500, 110, scope=kept)
    builder.gate(200, False)
    builder.gate(300, True)
    cpu_state(builder, 310, {0x1000: 1000, 0x3000: 400}, "resume")
    builder.alloc(0x2000, 50, 400)  # no contradiction: it was freed in the pause
    builder.free(0x3000, 0, 500, completed=500)
    cpu_state(builder, 600, {0x1000: 1000, 0x2000: 50}, "stop")
    found = memory(builder, tmp_path)
    assert (found.allocated_peak.moment.allocated_bytes, found.end.allocated_bytes) == (1500, 1050)
    assert (found.check.contradictions, found.check.places, found.check.equal) == (0, 1, 1)
    assert found.end_known
    assert found.scopes[0].left_behind.max_bytes == 1000


def test_cpu_state_that_differs_is_told(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.alloc(0x1000, 1000, 100)
    cpu_state(builder, 600, {0x1000: 999}, "stop")
    wrong = memory(builder, tmp_path).check.first_difference
    assert (wrong.what, wrong.ours, wrong.torchs) == ("block size", 1000, 999)


def test_growth_is_told_by_recorded_steps(builder, device, tmp_path):
    """2 MiB a step; every other pair of steps is muted, and its growth is seen in the state behind it."""
    at, number = SEGMENT + BEFORE, 0
    for _ in range(3):
        for sort in ("recorded", "muted", "muted", "recorded"):
            begin = 100 + 100 * number
            if sort == "muted":
                builder.gate(begin - 1, False)
            step = builder.scope("denoise_step", begin, begin + 50, verify=sort)
            if sort == "recorded":
                device.alloc(at, 2 * MIB, begin + 10, scope=step)
            else:
                builder.gate(begin + 51, True)
                device.blocks[at] = 2 * MIB
                device.snapshot(begin + 52, "resume")
            at, number = at + 2 * MIB, number + 1
    (leak,) = memory(builder, tmp_path).leaks
    assert (leak.path, leak.occurrences, leak.growth_bytes) == ("denoise_step", 6, 2 * MIB)


def test_two_pauses_without_an_event_between_are_both_seen(builder, device, tmp_path):
    """The second one begins where the state behind the first one stands: what it hides is no contradiction."""
    kept = SEGMENT + BEFORE
    for number in range(2):
        begin = 100 + 100 * number
        builder.gate(begin, False)
        builder.gate(begin + 50, True)
        device.blocks[kept + number * 4 * MIB] = 4 * MIB
        device.snapshot(begin + 60, "resume")
    found = memory(builder, tmp_path)
    assert (found.check.contradictions, found.check.first_difference) == (0, None)
    assert found.end.allocated_bytes == BEFORE + 8 * MIB
