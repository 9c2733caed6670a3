import numpy as np
import pytest

from made_trace import TraceBuilder
from wanhook.analysis.device_replay import DeviceReplay
from wanhook.analysis.replay_check import Difference, check_replay
from wanhook.tracefile.format import AllocatorAction, BlockState
from wanhook.tracefile.model import load

MIB = 1 << 20
A, B = 0x7F0000000000, 0x7F1000000000
KNOWN = {"requested": 4 * MIB, "allocated": 4 * MIB, "active": 4 * MIB, "reserved_bytes": 20 * MIB}
THEN = {"requested": 6 * MIB, "allocated": 6 * MIB, "active": 6 * MIB, "reserved_bytes": 20 * MIB}
STEP = 100_000  # ns between two events: far enough that a sample belongs to one position


def segment(**fields):
    return {"address": A, "total": 20 * MIB, "stream": 7, "flags": 1, **fields}


def blocks(*sizes, free=()):
    found, at = [], A
    for number, size in enumerate(sizes):
        state = BlockState.INACTIVE if number in free else BlockState.ALLOCATED
        found.append({"address": at, "size": size, "requested": size, "segment": A, "state": state})
        at += size
    return found


def totals(*sizes, free=(), **fields):
    used = sum(size for number, size in enumerate(sizes) if number not in free)
    fields = {"allocated": used, "active": used, "requested": used, "blocks": len(sizes), **fields}
    return [segment(**fields)], blocks(*sizes, free=free)


@pytest.fixture
def builder():
    """4 MiB of a 20 MiB segment were allocated before the recording; 2 MiB more, at once, in it."""
    builder = TraceBuilder()
    builder.snapshot(0, *totals(4 * MIB, 16 * MIB, free={1}), **KNOWN)
    builder.alloc(A + 4 * MIB, 2 * MIB, 1 * STEP)
    return builder


def opened(builder, tmp_path):
    return load(builder.save(tmp_path / "a.wanhook")).traces[0]


def checked(trace, **options):
    return check_replay(trace, DeviceReplay(trace, 0, **options))


def test_samples_and_snapshots_agree(builder, tmp_path):
    builder.sample(STEP // 2, inactive_split=16 * MIB, **KNOWN)
    builder.sample(2 * STEP, inactive_split=14 * MIB, **THEN)
    builder.snapshot(3 * STEP, *totals(4 * MIB, 2 * MIB, 14 * MIB, free={2}), reason="stop", **THEN)
    found = checked(opened(builder, tmp_path))
    assert (found.places, found.equal, found.not_claimed, found.first_difference) == (3, 3, 0, None)
    assert (found.refused, found.contradictions, found.exact) == ([], 0, True)


@pytest.mark.parametrize("field", ["requested", "allocated", "active", "reserved_bytes", "inactive_split"])
def test_a_sample_that_differs_is_told(builder, tmp_path, field):
    sampled = {**THEN, "inactive_split": 14 * MIB}
    builder.sample(2 * STEP, **sampled | {field: 77})
    builder.sample(3 * STEP, **sampled)
    found = checked(opened(builder, tmp_path))
    assert (found.places, found.equal, found.exact) == (2, 1, False)
    name = field.removesuffix("_bytes")
    assert found.first_difference == Difference(2, STEP, name, sampled[field], 77)


@pytest.mark.parametrize(
    ("state", "what", "ours", "torchs"),
    [
        (totals(4 * MIB, 2 * MIB, 14 * MIB, free={2}, pool=3), "segment pool", 0, 3),
        (totals(4 * MIB, 4 * MIB, 12 * MIB, free={2}, allocated=6 * MIB, active=6 * MIB, requested=6 * MIB),
         "block size", 2 * MIB, 4 * MIB),
        (totals(4 * MIB, 2 * MIB, 14 * MIB, free={1}, allocated=6 * MIB, active=6 * MIB, requested=6 * MIB),
         "block state", BlockState.ALLOCATED, BlockState.INACTIVE),
        (([], []), "segments", 1, 0),
    ],
)  # fmt: skip
def test_an_address_map_that_differs_is_told(builder, tmp_path, state, what, ours, torchs):
    builder.snapshot(2 * STEP, *state, reason="stop", **THEN)
    found = checked(opened(builder, tmp_path))
    assert found.first_difference == Difference(3, 2 * STEP, what, ours, torchs)


def test_what_a_free_block_was_asked_for_does_not_count(builder, tmp_path):
    segments, rows = totals(4 * MIB, 2 * MIB, 14 * MIB, free={2})
    rows[2]["requested"] = 99
    builder.snapshot(2 * STEP, segments, rows, reason="checkpoint", **THEN)
    assert checked(opened(builder, tmp_path)).exact


def numbered(trace, *sequences):
    """The trace, with these event numbers in its allocator samples."""
    before = trace.allocator_samples
    names = ["sequence" if name == "scope" else name for name in before.dtype.names]
    samples = np.zeros(
        len(before), [(name, before.dtype[own]) for name, own in zip(names, before.dtype.names, strict=True)]
    )
    for name, own in zip(names, before.dtype.names, strict=True):
        samples[name] = before[own]
    samples["sequence"] = np.array(sequences, np.uint64).astype(np.uint32)
    trace.allocator_samples = samples
    return trace


@pytest.mark.parametrize("first", [0, 2**32 - 3, 2**40 + 2**31])
def test_a_sample_is_placed_by_the_number_of_the_last_event(tmp_path, first):
    builder = TraceBuilder()
    builder._allocator_sequence[0] = first
    builder.snapshot(0, *totals(4 * MIB, 16 * MIB, free={1}), **KNOWN)
    for number in range(8):
        builder.alloc(A + (4 + 2 * number) * MIB, 2 * MIB, STEP)
    # Written much later, and before the events that its time says.
    builder.sample(5 * STEP, inactive_split=14 * MIB, **THEN)
    builder.sample(STEP // 2, inactive_split=14 * MIB, **THEN)
    trace = opened(builder, tmp_path)
    assert (checked(trace).places, checked(trace).equal) == (2, 0)
    assert checked(numbered(trace, first + 2, first + 2)).exact
    assert not checked(numbered(trace, first + 3, first + 3)).exact


def test_a_sample_between_a_free_and_its_completion(builder, tmp_path):
    builder._allocator_sequence[0] += 1
    builder.free(A, 4 * MIB, 2 * STEP, completed=3 * STEP, sequence=3)
    between = THEN | {"allocated": 2 * MIB}
    after = between | {"requested": 2 * MIB, "active": 2 * MIB}
    builder.sample(4 * STEP, inactive_split=14 * MIB, **between)
    builder.sample(5 * STEP, inactive_split=18 * MIB, **after)
    assert checked(numbered(opened(builder, tmp_path), 3, 4)).exact
    assert checked(numbered(opened(builder, tmp_path), 4, 3)).equal == 0


def test_a_sample_without_a_number_may_be_a_little_late(builder, tmp_path):
    builder.alloc(A + 6 * MIB, MIB + 512, 2 * STEP)
    builder.sample(2 * STEP + 15_000, inactive_split=14 * MIB, **THEN)
    assert checked(opened(builder, tmp_path)).exact
    builder.sample(2 * STEP + 25_000, inactive_split=14 * MIB, **THEN)
    assert checked(opened(builder, tmp_path)).equal == 1


def test_nothing_is_claimed_behind_a_pause_until_the_state_is_known_again(builder, tmp_path):
    builder.gate(2 * STEP, open=False)
    builder.gate(4 * STEP, open=True)
    builder.alloc(B, 512, 4 * STEP)  # by another thread, before the snapshot
    builder.sample(5 * STEP, inactive_split=1, **KNOWN)
    builder.snapshot(6 * STEP, *totals(4 * MIB, 16 * MIB, free={1}), reason="resume", **KNOWN)
    builder.sample(7 * STEP, inactive_split=16 * MIB, **KNOWN)
    found = checked(opened(builder, tmp_path))
    assert (found.places, found.equal, found.not_claimed, found.exact) == (1, 1, 2, False)


def test_an_unneeded_resync_is_a_check_too(builder, tmp_path):
    builder.snapshot(2 * STEP, *totals(4 * MIB, 2 * MIB, 14 * MIB, free={2}), reason="resync", **THEN)
    found = checked(opened(builder, tmp_path))
    assert (found.places, found.equal, found.exact) == (1, 1, True)


def test_lost_events_end_the_claim(builder, tmp_path):
    builder.alloc(A + 6 * MIB, 2 * MIB, 2 * STEP, sequence=9)
    builder.sample(3 * STEP, inactive_split=0, **KNOWN)
    found = checked(opened(builder, tmp_path))
    assert (found.places, found.not_claimed, found.contradictions) == (0, 1, 1)


def test_device_that_was_not_used_before_needs_no_state(tmp_path):
    """Its first event has the first number: there was nothing of which a state could have been written."""
    builder = TraceBuilder()
    builder.segment(A, 20 * MIB, 1 * STEP)
    builder.alloc(A, 4 * MIB, 2 * STEP)
    builder.sample(3 * STEP, inactive_split=16 * MIB, **KNOWN)
    builder.snapshot(4 * STEP, *totals(4 * MIB, 16 * MIB, free={1}), reason="stop", **KNOWN)
    found = checked(opened(builder, tmp_path))
    assert (found.places, found.equal, found.refused, found.exact) == (2, 2, [], True)


@pytest.mark.parametrize("change", [{"sequence": 2}, {"action": AllocatorAction.SNAPSHOT}])
def test_state_of_a_device_that_was_used_before_is_missed(tmp_path, change):
    builder = TraceBuilder()
    first = {"action": AllocatorAction.SEGMENT_ALLOC, "sequence": 1} | change
    builder.allocator(first.pop("action"), A, 20 * MIB, 1 * STEP, **first)
    builder.alloc(A, 4 * MIB, 2 * STEP, sequence=3)
    assert DeviceReplay(opened(builder, tmp_path), 0).refused


def test_without_a_first_state_everything_is_refused(tmp_path):
    builder = TraceBuilder()
    builder.alloc(A, 512, STEP, sequence=2)
    builder.sample(2 * STEP, inactive_split=0, **KNOWN)
    found = checked(opened(builder, tmp_path))
    assert found.refused == ["no snapshot tells what was allocated before the recording"]
    assert (found.places, found.not_claimed, found.exact) == (0, 1, False)


@pytest.mark.parametrize(
    ("allocator", "why"),
    [
        ({"backend": "cudaMallocAsync"}, "the allocator was cudaMallocAsync"),
        (
            {"settings_at_start": "", "settings_in_use": "max_split_size_mb:64"},
            "the program changed the allocator's settings while it was recorded",
        ),
    ],
)
def test_what_settings_make_impossible_is_refused(builder, tmp_path, allocator, why):
    builder.meta({"allocator": allocator})
    builder.sample(2 * STEP, inactive_split=14 * MIB, **THEN)
    trace = opened(builder, tmp_path)
    assert checked(trace).refused == [why]
    assert not DeviceReplay(trace, 0).exact_at(np.array([1])).any()


def test_a_host_is_known_from_its_first_event(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.free(B, 0, STEP, flags=1)  # allocated before the recording
    builder.alloc(A, 1000, 2 * STEP)
    trace = opened(builder, tmp_path)
    replay = DeviceReplay(trace, -1)
    assert replay.result.counters["allocated"].tolist() == [0, 0, 1000]
    found = check_replay(trace, replay)
    assert (found.places, found.exact) == (0, True)
    assert replay.exact_at(np.arange(3)).all()


@pytest.mark.parametrize("reason", ["resume", None])
def test_a_later_recording_of_a_host_needs_a_state(tmp_path, reason):
    """The recorder's allocator was new in the process's first one alone: what lives since then is not seen again."""
    builder = TraceBuilder(device="cpu", life=1)
    builder.alloc(A, 1000, 2 * STEP)
    if reason is not None:
        rows = [{"address": B, "size": 500, "requested": 500, "state": 1},
                {"address": A, "size": 1000, "requested": 1000, "state": 1}]  # fmt: skip
        builder.snapshot(3 * STEP, [], rows, device=-1, reason=reason, allocated=1500, active=1500, requested=1500)
    trace = opened(builder, tmp_path)
    replay = DeviceReplay(trace, -1)
    assert not replay.exact_at(np.arange(1)).any()
    assert bool(check_replay(trace, replay).refused) == (reason is None)


def test_devices_are_apart(builder, tmp_path):
    builder.allocator(AllocatorAction.SEGMENT_ALLOC, B, 2 * MIB, STEP, device=1)
    builder.snapshot(2 * STEP, device=1, reason="start")
    trace = opened(builder, tmp_path)
    assert DeviceReplay(trace, 0).result.counters["reserved"].tolist() == [0, 20 * MIB, 20 * MIB]
    other = DeviceReplay(trace, 1, blocks=False, largest_free=False)
    assert other.result.counters["reserved"].tolist() == [0, 2 * MIB, 0]
    assert other.result.exact["known"].tolist() == [0, 1]
