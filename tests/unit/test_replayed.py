"""The comparison that the fuzz on a GPU rests on: it must see any difference, and name the first."""

import numpy as np
import pytest

from gpu.replayed import (
    COUNTED,
    Truth,
    TruthWriter,
    check_positions,
    counter_differences,
    encoded_pool,
    map_differences,
)
from made_trace import TraceBuilder
from wanhook.tracefile.format import BlockState
from wanhook.tracefile.model import Trace

POSITIONS = {20: 3, 40: 6, 60: 9}
SEGMENT = [("address", "u8"), ("total", "u8"), ("stream", "u8"), ("pool", "u4")]
BLOCK = [("address", "u8"), ("size", "u8"), ("requested", "u8"), ("state", "u1")]


def made_counters():
    """10 positions; each counter rises by its own step and falls at position 5."""
    counters = np.zeros(10, [(name, "i8") for name in COUNTED])
    for step, name in enumerate(COUNTED, 1):
        counters[name] = np.arange(10) * step - np.where(np.arange(10) >= 5, 3 * step, 0)
    return counters


def truth_of(counters, tmp_path, *, since=0, maps=()):
    """What torch would have said of these counters."""
    writer = TruthWriter()
    for operation, at in POSITIONS.items():
        values = [(int(counters[name][at]), int(counters[name][min(since, at) : at + 1].max())) for name in COUNTED]
        writer.add_counters(operation, 0, values)
        writer.add_counters(operation, 1, [(-1, -1)] * len(COUNTED))
    for operation in maps:
        writer.add_map(operation, 0, [(4096, 1024, 7, 0)], [
            (4608, 512, 99, "inactive"), (4096, 512, 500, "active_allocated")])  # fmt: skip
    writer.write(tmp_path / "truth.npz")
    return Truth.read(tmp_path / "truth.npz")


def test_equal_counters_have_no_difference(tmp_path):
    counters = made_counters()
    assert list(counter_differences(counters, [0], POSITIONS, truth_of(counters, tmp_path))) == []


@pytest.mark.parametrize("name", COUNTED)
def test_one_byte_is_seen(tmp_path, name):
    counters = made_counters()
    truth = truth_of(counters, tmp_path)
    counters[name][6] += 1
    (found,) = counter_differences(counters, [0], POSITIONS, truth)
    assert (found.operation, found.position, found.field) == (40, 6, f"{name}, current")
    assert found.ours == found.torchs + 1
    assert str(found).startswith(f"after operation 40 (event position 6): {name}, current: ours ")


def test_a_peak_between_checks_is_seen(tmp_path):
    counters = made_counters()
    truth = truth_of(counters, tmp_path)
    counters["active"][4] += 50
    found = list(counter_differences(counters, [0], POSITIONS, truth))
    assert [(each.operation, each.field) for each in found] == [(40, "active, peak"), (60, "active, peak")]


def test_peaks_begin_where_torch_reset_them(tmp_path):
    counters = made_counters()
    truth = truth_of(counters, tmp_path, since=5)
    later = {operation: at for operation, at in POSITIONS.items() if at >= 5}
    kept = Truth(truth.counters[np.isin(truth.counters["operation"], list(later))], truth.segments, truth.blocks)
    assert list(counter_differences(counters, [0, 5], later, kept)) == []
    assert {each.field.split(", ")[1] for each in counter_differences(counters, [0], later, kept)} == {"peak"}


def same_map(position):
    segments = np.array([(4096, 1024, 7, 0)], SEGMENT)
    blocks = [(4096, 512, 500, BlockState.ALLOCATED), (4608, 512, 0, BlockState.INACTIVE)]
    return segments, np.array(blocks, BLOCK)


def test_equal_maps_have_no_difference(tmp_path):
    assert list(map_differences(same_map, POSITIONS, truth_of(made_counters(), tmp_path, maps=(20, 60)))) == []


@pytest.mark.parametrize(
    ("table", "row", "field", "value", "what"),
    [
        (0, 0, "address", 0, "segment 0"), (0, 0, "total", 2048, "segment 0"), (0, 0, "stream", 8, "segment 0"),
        (0, 0, "pool", 1, "segment 0"), (1, 1, "size", 513, "block 1"), (1, 0, "requested", 501, "block 0"),
        (1, 0, "state", BlockState.PENDING_FREE, "block 0"), (1, 1, "state", BlockState.ALLOCATED, "block 1"),
    ],
)  # fmt: skip
def test_every_field_of_a_map_counts(tmp_path, table, row, field, value, what):
    def other_map(position):
        found = same_map(position)
        if position == POSITIONS[40]:
            found[table][field][row] = value
        return found

    (found,) = map_differences(other_map, POSITIONS, truth_of(made_counters(), tmp_path, maps=(20, 40, 60)))
    assert (found.operation, found.position) == (40, 6)
    assert found.field.startswith(f"{what} in order of address")


def test_a_missing_block_is_a_difference(tmp_path):
    def shorter(position):
        segments, blocks = same_map(position)
        return segments, blocks[:1]

    (found,) = map_differences(shorter, POSITIONS, truth_of(made_counters(), tmp_path, maps=(20,)))
    assert (found.field, found.ours) == ("block 1 in order of address (1 of ours, 2 of torch's)", None)


def recorded_checks(*, sequence=3, operation=20):
    """Two events, the second one folded (numbers 1, 2 and 3), and a check that says it saw `sequence`."""
    builder = TraceBuilder()
    builder.alloc(4096, 500, at=10)
    builder.free(4096, 500, at=20, completed=25)
    scope = builder.scope("check", 30, 40, args={"operation": operation})
    builder.sample(31, edge="scope_begin", scope=scope, retries=0, sequence=sequence)
    builder.sample(39, edge="scope_end", scope=scope, retries=0, sequence=sequence)
    other = builder.scope("work", 50, 60)
    builder.sample(51, edge="scope_begin", scope=other, retries=0, sequence=sequence)
    return builder


def test_positions_of_the_checks(tmp_path):
    trace = Trace(recorded_checks().save(tmp_path / "a.wanhook"))
    assert check_positions(trace, 0) == {20: 2}
    assert check_positions(trace, 1) == {}
    trace = Trace(recorded_checks(sequence=1).save(tmp_path / "b.wanhook"))
    assert check_positions(trace, 0) == {20: 1}


def test_a_place_that_is_not_known_or_does_not_exist(tmp_path):
    with pytest.raises(AssertionError, match="after operation 20 does not know its place"):
        check_positions(Trace(recorded_checks(sequence=0).save(tmp_path / "a.wanhook")), 0)
    with pytest.raises(AssertionError, match="after operation 20 lies inside a folded free"):
        check_positions(Trace(recorded_checks(sequence=2).save(tmp_path / "b.wanhook")), 0)


def test_pools_are_written_as_in_a_trace():
    assert [encoded_pool(pool) for pool in ((0, 0), (5, 0), (0, 6))] == [0, 5, 0x80000006]
