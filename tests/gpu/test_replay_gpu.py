"""The replay of a recording equals what torch itself said, at every moment at which torch was asked."""

import itertools
import time

import numpy as np
import pytest

from gpu.processes import Program, running
from gpu.recorded import assert_healthy, only_trace
from gpu.replayed import Truth, check_positions, counter_differences, map_differences

pytestmark = pytest.mark.gpu

OPERATIONS = 20_000
SETTINGS = {
    "default": "",
    "expandable": "expandable_segments:True",
    "max_split": "max_split_size_mb:64",
    "roundup": "roundup_power2_divisions:4",
    "roundup_list": "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]",
    "garbage_collection": "garbage_collection_threshold:0.6",
    "expandable_roundup": "expandable_segments:True,roundup_power2_divisions:4",
    "max_split_garbage_collection": "max_split_size_mb:64,garbage_collection_threshold:0.6",
}
SHOWN = 10


def fuzzed(folder, settings: str, *, operations: int = OPERATIONS, seed: int = 1, devices: int = 1, pause: str = ""):
    """Runs the program; its trace, and how often it did what."""
    environment = {"PYTORCH_CUDA_ALLOC_CONF": settings} if settings else {}
    program = Program("fuzz_allocator", folder, operations, seed, devices, pause, environment=environment)
    began = time.monotonic()
    with running(program):
        counts = program.finish(timeout=240).answer
    print(f"\n{settings or 'default settings'}: {operations} operations, {time.monotonic() - began:.1f} s, {counts}")
    trace = only_trace(folder)
    assert_healthy(trace)
    return trace, counts


def replayed(trace, device: int, maps_at: list[int]):
    """The replay of one device from its state at the start, and at resume where there was a pause; the positions of
    these states."""
    from wanhook import _replay
    from wanhook.analysis.allocator_settings import settings_of

    settings = settings_of(trace)
    assert isinstance(settings, _replay.Settings), settings
    events = trace.allocator_events[trace.allocator_events["device"] == device]
    known = [each for each in trace.snapshots if each.device == device and each.reason in ("start", "resume")]
    since = [int(np.searchsorted(events["sequence"], each.sequence, "right")) for each in known]
    states = [
        _replay.KnownState(position, each.segments, each.blocks)
        for position, each in zip(since, known, strict=True)
    ]  # fmt: skip
    return _replay.replay(events, states, settings, maps_at=sorted(set(maps_at))), since


def assert_equals_torch(folder, trace, device: int = 0) -> None:
    """Counters and peaks at every check, address maps at the chosen ones; nothing contradicts the model."""
    truth = Truth.read(folder / "truth.npz", device)
    positions = check_positions(trace, device)
    assert sorted(positions) == truth.counters["operation"].tolist()
    maps_at = [positions[operation] for operation in np.unique(truth.segments["operation"]).tolist()]
    replay, since = replayed(trace, device, maps_at)
    found = itertools.chain(
        counter_differences(replay.counters, since, positions, truth),
        map_differences(replay.address_map, positions, truth),
    )
    first = sorted(itertools.islice(found, 10_000), key=lambda each: each.operation)[:SHOWN]
    assert not first, "\n".join(["differs from torch:", *map(str, first), *contradictions(replay)])
    assert contradictions(replay) == []
    assert replay.exact_at(np.array(sorted(positions.values()))).all()
    print(
        f"device {device}: {len(truth.counters)} counters and {len(maps_at)} maps equal, {len(replay.counters)} places"
    )


def contradictions(replay) -> list[str]:
    from wanhook import _replay

    return [
        f"event {row['position']}: {_replay.CONTRADICTION_KINDS[int(row['kind'])]} at {row['address']:#x} {row['size']}"
        for row in replay.contradictions[:SHOWN]
    ]


def assert_was_hard(counts: dict) -> None:
    """The run did contain what it is for."""
    for name in ("oom", "allocate_in_pool", "deferred", "empty_cache", "captured", "drop_graph", "drop_pool"):
        assert counts.get(name, 0) > 0, f"no {name}: {counts}"


@pytest.mark.parametrize("name", SETTINGS)
def test_fuzz(tmp_path, name):
    trace, counts = fuzzed(tmp_path, SETTINGS[name])
    assert_was_hard(counts)
    assert_equals_torch(tmp_path, trace)


@pytest.mark.parametrize("name", ["default", "expandable"])
def test_paused_and_resumed(tmp_path, name):
    """Exact again from the state at resume on."""
    trace, _ = fuzzed(tmp_path, SETTINGS[name], operations=4000, seed=2, pause="pause")
    assert [each.reason for each in trace.snapshots] == ["start", "resume", "stop"]
    assert_equals_torch(tmp_path, trace)


@pytest.mark.gpu(2)
def test_two_devices(tmp_path):
    trace, _ = fuzzed(tmp_path, SETTINGS["default"], operations=6000, seed=3, devices=2)
    for device in (0, 1):
        assert_equals_torch(tmp_path, trace, device)


def test_self_check_of_the_recording(tmp_path):
    """What the report says about itself: every sample and the state at the end are equal."""
    from wanhook.analysis.device_replay import DeviceReplay
    from wanhook.analysis.replay_check import check_replay

    trace, _ = fuzzed(tmp_path, SETTINGS["default"], operations=2000, seed=4)
    result = check_replay(trace, DeviceReplay(trace, 0))
    assert (result.refused, result.first_difference) == ([], None)
    assert result.exact
    assert result.equal == result.places >= 100
