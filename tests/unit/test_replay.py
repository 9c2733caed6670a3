"""Known answers of the block model, and what it does with events that contradict it."""

import numpy as np
import pytest

from made_events import MIB
from wanhook import _replay
from wanhook.tracefile.format import AllocatorAction, AllocatorFlags, BlockState
from wanhook.tracefile.tables import ALLOCATOR_EVENT, BLOCK_TABLE, SEGMENT

A, B, C = 0x7F0000000000, 0x7F1000000000, 0x7F2000000000
ALLOC, FREE, DONE = AllocatorAction.ALLOC, AllocatorAction.FREE_REQUESTED, AllocatorAction.FREE_COMPLETED
SEGMENT_ALLOC, SEGMENT_FREE = AllocatorAction.SEGMENT_ALLOC, AllocatorAction.SEGMENT_FREE
MAP, UNMAP, SNAPSHOT, OOM = (getattr(AllocatorAction, f) for f in ("SEGMENT_MAP", "SEGMENT_UNMAP", "SNAPSHOT", "OOM"))
FREED = AllocatorFlags.FREE_FOLDED
KINDS = {phrase: kind for kind, phrase in _replay.CONTRADICTION_KINDS.items()}


def events(*rows, **columns) -> np.ndarray:
    """Rows of (action, address, size, further fields)."""
    found = np.zeros(len(rows), ALLOCATOR_EVENT)
    for event, (action, address, size, *more) in zip(found, rows, strict=True):
        event["action"], event["address"], event["size"] = action, address, size
        for name, value in (columns | (more[0] if more else {})).items():
            event[name] = value
    return found


def play(*rows, states=(), settings=None, complete=True, **options):
    return _replay.replay(
        events(*rows), list(states), settings or _replay.Settings(), complete_from_start=complete, **options
    )


def state(position, segments=(), blocks=()):
    tables = np.zeros(len(segments), SEGMENT), np.zeros(len(blocks), BLOCK_TABLE)
    for table, rows in zip(tables, (segments, blocks), strict=True):
        for row, fields in zip(table, rows, strict=True):
            for name, value in fields.items():
                row[name] = value
    return _replay.KnownState(position, *tables)


def one_segment(position, *blocks, total=20 * MIB, flags=1):
    """A state of one large segment at A; blocks of (offset, size, state, further fields)."""
    rows = [
        {"address": A + at, "size": size, "requested": size, "segment": A, "state": what, **(more[0] if more else {})}
        for at, size, what, *more in blocks
    ]
    return state(position, [{"address": A, "total": total, "flags": flags}], rows)


def kinds(found):
    return [_replay.CONTRADICTION_KINDS[int(kind)] for kind in found.contradictions["kind"]]


def counters(found, position, *names):
    return tuple(int(found.counters[position][name]) for name in names)


# Rules -------------------------------------------------------------------------------------------------------------


def test_a_segment_from_first_to_last():
    found = play(
        (SEGMENT_ALLOC, A, 20 * MIB, {"scope": 5}),
        (ALLOC, A, 3 * MIB - 100, {"scope": 6}),
        (ALLOC, A + 3 * MIB, 5 * MIB),
        (FREE, A, 3 * MIB - 100, {"flags": FREED}),
        (FREE, A + 3 * MIB, 5 * MIB),
        (DONE, A + 3 * MIB, 5 * MIB),
        (SEGMENT_FREE, A, 20 * MIB),
    )
    assert found.counters.tolist() == [
        (0, 0, 0, 0, 0, 0, 0),
        (0, 0, 0, 20 * MIB, 0, 20 * MIB, 20 * MIB),
        (3 * MIB - 100, 3 * MIB, 3 * MIB, 20 * MIB, 17 * MIB, 17 * MIB, 17 * MIB),
        (8 * MIB - 100, 8 * MIB, 8 * MIB, 20 * MIB, 12 * MIB, 12 * MIB, 12 * MIB),
        (5 * MIB, 5 * MIB, 5 * MIB, 20 * MIB, 15 * MIB, 15 * MIB, 12 * MIB),
        (5 * MIB, 0, 5 * MIB, 20 * MIB, 15 * MIB, 15 * MIB, 12 * MIB),
        (0, 0, 0, 20 * MIB, 0, 20 * MIB, 20 * MIB),
        (0, 0, 0, 0, 0, 0, 0),
    ]
    assert found.blocks.tolist() == [
        (A, 3 * MIB, 3 * MIB - 100, 2, 4, 4, 6, 0, 0),
        (A + 3 * MIB, 5 * MIB, 5 * MIB, 3, 5, 6, 0, 0, 0),
    ]
    assert found.segments.tolist() == [(A, 20 * MIB, 1, 7, 5, 0, 0, 1, 0)]
    assert found.exact.tolist() == [(0, 8, 8, 1)]
    assert (found.contradiction_count, len(found.contradictions)) == (0, 0)


@pytest.mark.parametrize(
    ("segment", "requested", "settings", "size"),
    [
        (20 * MIB, 19 * MIB, {}, 20 * MIB),  # a rest of 1 MiB stays with a large block
        (20 * MIB, 19 * MIB - 512, {}, 19 * MIB - 512),
        (2 * MIB, MIB - 513, {}, MIB - 512),
        (100 * MIB, 70 * MIB, {"max_split_size": 64 * MIB}, 100 * MIB),
        (100 * MIB, 60 * MIB, {"max_split_size": 64 * MIB}, 60 * MIB),
        (100 * MIB, 70 * MIB, {"roundup_power2_divisions": [4] * 16}, 80 * MIB),
        (20 * MIB, 19 * MIB, {"expandable_segments": True}, 19 * MIB),
    ],
)
def test_how_much_an_allocation_takes(segment, requested, settings, size):
    found = play((SEGMENT_ALLOC, A, segment), (ALLOC, A, requested), settings=_replay.Settings(**settings))
    assert counters(found, 2, "requested", "allocated") == (requested, size)


def test_a_mempool_with_an_allocator_of_its_own_does_not_expand():
    rows = (SEGMENT_ALLOC, A, 20 * MIB), (ALLOC, A, 19 * MIB)
    settings = _replay.Settings(expandable_segments=True)
    found = _replay.replay(events(*rows, pool=(1 << 31) + 1), [], settings, complete_from_start=True)
    assert counters(found, 2, "allocated") == (20 * MIB,)
    assert found.segments["pool"].tolist() == [(1 << 31) + 1]


def test_mapped_pieces_are_one_segment_and_several_rows_of_a_map():
    found = play(
        (MAP, A, 20 * MIB),
        (ALLOC, A, 20 * MIB),
        (MAP, A + 40 * MIB, 20 * MIB),
        (MAP, A + 20 * MIB, 20 * MIB),
        (UNMAP, A + 20 * MIB, 20 * MIB),
        settings=_replay.Settings(expandable_segments=True),
        maps_at=[3, 4, 5],
    )
    assert kinds(found) == []
    rows = [found.address_map(position)[0][["address", "total"]].tolist() for position in (3, 4, 5)]
    apart = [(A, 20 * MIB), (A + 40 * MIB, 20 * MIB)]
    assert rows == [apart, [(A, 60 * MIB)], apart]
    assert found.segments[["address", "size", "begin", "end"]].tolist() == [(A, 60 * MIB, 1, 6)]
    assert [counters(found, p, "inactive_split", "largest_free") for p in (3, 4, 5)] == [
        (0, 20 * MIB),
        (0, 40 * MIB),
        (0, 20 * MIB),
    ]


def test_streams_and_pools_have_their_own_expandable_segments():
    found = play(
        (MAP, A, 20 * MIB, {"stream": 1}),
        (MAP, A + 20 * MIB, 20 * MIB, {"stream": 2}),
        (MAP, A + 40 * MIB, 20 * MIB, {"stream": 2, "pool": 4}),
        maps_at=[3],
    )
    assert len(found.segments) == len(found.address_map(3)[0]) == 3


def test_a_host_has_no_segments():
    found = play((ALLOC, 0x1000, 1000, {"scope": 3}), (ALLOC, 0x2000, 0), (FREE, 0x1000, 0), host=True)
    assert found.counters["allocated"].tolist() == [0, 1000, 1000, 0]
    assert found.counters[2].tolist() == (1000, 1000, 1000, 0, 0, 0, -1)
    assert found.blocks[0].tolist() == (0x1000, 1000, 1000, 1, 3, 3, 3, 0, -1)
    assert (len(found.segments), found.contradiction_count) == (0, 0)


# Known states --------------------------------------------------------------------------------------------------------


def test_a_known_state_is_taken_over_as_it_is():
    first = one_segment(
        1,
        (0, 4 * MIB, BlockState.ALLOCATED, {"requested": 4 * MIB - 1, "scope": 9}),
        (4 * MIB, 6 * MIB, BlockState.PENDING_FREE),
        (10 * MIB, 10 * MIB, BlockState.INACTIVE),
    )
    found = play((SNAPSHOT, 0, 0), (DONE, A + 4 * MIB, 6 * MIB), states=[first], complete=False, maps_at=[1])
    names = "requested", "allocated", "active", "reserved", "inactive_split", "largest_free"
    assert counters(found, 0, *names) == (0,) * 6
    assert counters(found, 1, *names) == (10 * MIB - 1, 4 * MIB, 10 * MIB, 20 * MIB, 10 * MIB, 10 * MIB)
    assert counters(found, 2, *names) == (4 * MIB - 1, 4 * MIB, 4 * MIB, 20 * MIB, 16 * MIB, 16 * MIB)
    assert found.blocks[["begin", "freed", "end", "scope"]].tolist() == [(1, 3, 3, 9), (1, 1, 2, -1)]
    assert found.exact.tolist() == [(0, 1, 0, 0), (1, 3, 3, 1)]
    assert found.exact_at(np.array([0, 1, 2, 3, -1])).tolist() == [False, True, True, False, False]
    assert found.segments["scope"].tolist() == [-1]


def test_what_lives_through_a_later_state_keeps_its_life():
    used, idle = BlockState.ALLOCATED, BlockState.INACTIVE
    first = one_segment(0, (0, 20 * MIB, idle))
    later = one_segment(3, (0, 4 * MIB, used), (4 * MIB, 2 * MIB, used), (6 * MIB, 14 * MIB, idle))
    rows = (ALLOC, A, 4 * MIB, {"scope": 7}), (ALLOC, A + 4 * MIB, 5 * MIB, {"scope": 8}), (SNAPSHOT, 0, 0)
    found = play(*rows, states=[first, later])
    assert found.blocks[["address", "begin", "end", "scope"]].tolist() == [
        (A, 1, 4, 7),
        (A + 4 * MIB, 2, 3, 8),  # it was not in the state any more
        (A + 4 * MIB, 3, 4, -2),
    ]
    assert found.segments[["begin", "end"]].tolist() == [(0, 4)]
    assert counters(found, 3, "allocated", "reserved") == (6 * MIB, 20 * MIB)


def test_a_known_state_ends_an_inexact_stretch():
    first, later = (one_segment(p, (0, 20 * MIB, BlockState.INACTIVE)) for p in (0, 2))
    found = play((FREE, C, 5, {"flags": FREED}), (SNAPSHOT, 0, 0), (ALLOC, A, 4 * MIB), states=[first, later])
    assert found.exact.tolist() == [(0, 2, 0, 1), (2, 4, 4, 1)]


def test_nothing_is_claimed_behind_a_pause():
    first, later = (one_segment(p, (0, 20 * MIB, BlockState.INACTIVE)) for p in (0, 3))
    rows = (ALLOC, A, 4 * MIB), (ALLOC, A + 4 * MIB, 4 * MIB), (SNAPSHOT, 0, 0), (ALLOC, A, 2 * MIB)
    found = play(*rows, states=[first, later], unknown_from=[1])
    assert found.exact_at(np.arange(5)).tolist() == [True, False, False, True, True]
    assert found.contradiction_count == 0


def test_a_snapshot_with_a_gap_is_not_exact():
    found = play(states=[one_segment(0, (0, 4 * MIB, BlockState.ALLOCATED), (8 * MIB, 12 * MIB, BlockState.INACTIVE))])
    assert kinds(found) == ["snapshot whose blocks do not fill its segments"]
    assert counters(found, 0, "allocated", "free") == (4 * MIB, 16 * MIB)
    assert found.exact.tolist() == [(0, 1, 0, 1)]


# Contradictions ------------------------------------------------------------------------------------------------------

SEGMENT_A = (SEGMENT_ALLOC, A, 20 * MIB)
IN_USE = "allocation inside a block that is in use"


@pytest.mark.parametrize(
    ("rows", "phrase", "allocated", "reserved"),
    [
        ([(ALLOC, B, 512)], "allocation outside every known segment", 512, 20 * MIB + 512),
        ([(ALLOC, A + 4 * MIB, 2 * MIB)], "allocation inside a free block, not at its start", 2 * MIB, 20 * MIB),
        (
            [(ALLOC, A, 8 * MIB), (ALLOC, A + MIB, 2 * MIB)],
            "allocation inside a block that is in use",
            2 * MIB,
            20 * MIB,
        ),
        ([(ALLOC, A, 8 * MIB), (ALLOC, A, 2 * MIB)], IN_USE, 2 * MIB, 20 * MIB),
        ([(ALLOC, A, 30 * MIB)], "allocation larger than the free block it is in", 20 * MIB, 20 * MIB),
        (
            [(ALLOC, A, 8 * MIB, {"stream": 3})],
            "allocation in a segment of another stream, pool or size class",
            8 * MIB,
            20 * MIB,
        ),
        ([(FREE, A, 8 * MIB, {"flags": FREED})], "free of an address that is not allocated", 0, 20 * MIB),
        ([(ALLOC, A, 8 * MIB), (FREE, A, 7 * MIB)], "free of another size than was allocated", 0, 20 * MIB),
        ([(ALLOC, A, 8 * MIB), (FREE, A, 8 * MIB), (FREE, A, 8 * MIB)], "second free of a block", 0, 20 * MIB),
        ([(ALLOC, A, 8 * MIB), (DONE, A, 8 * MIB)], "completion of a free that was not requested", 0, 20 * MIB),
        ([(SEGMENT_ALLOC, A + MIB, 2 * MIB)], "new segment over a known one", 0, 2 * MIB),
        ([(SEGMENT_FREE, B, 2 * MIB)], "release of a segment that is not known", 0, 20 * MIB),
        ([(ALLOC, A, 8 * MIB), (SEGMENT_FREE, A, 20 * MIB)], "release of a segment with blocks in use", 0, 0),
        ([(SEGMENT_FREE, A, 10 * MIB)], "release of a segment with another size", 0, 0),
        ([(UNMAP, A, 2 * MIB)], "unmapping of memory that is not free", 0, 20 * MIB),
        ([(ALLOC, A, 2**64 - 1)], "size or address that cannot be", 0, 20 * MIB),
        ([(SEGMENT_ALLOC, 2**64 - 512, 2 * MIB)], "size or address that cannot be", 0, 20 * MIB),
    ],
)
def test_a_contradiction_is_noted_and_put_right(rows, phrase, allocated, reserved):
    found = play(SEGMENT_A, *rows)
    assert kinds(found)[-1] == phrase
    assert counters(found, len(rows) + 1, "allocated", "reserved") == (allocated, reserved)
    (place,) = found.contradictions["position"]
    assert (place, found.contradictions["address"][0]) == (len(rows), rows[-1][1])
    assert found.exact_at(np.array([place - 1, place])).tolist() == [True, False]


def test_unmapping_memory_in_use_frees_it():
    found = play((MAP, A, 60 * MIB), (ALLOC, A, 30 * MIB), (UNMAP, A + 20 * MIB, 20 * MIB), maps_at=[3])
    assert kinds(found) == ["unmapping of memory that is not free"]
    assert found.address_map(3)[0][["address", "total"]].tolist() == [(A, 20 * MIB), (A + 40 * MIB, 20 * MIB)]
    assert counters(found, 3, "allocated", "reserved") == (0, 40 * MIB)


def test_of_many_contradictions_the_first_are_kept():
    found = play(*[(FREE, A + n, 1) for n in range(10_003)])
    assert (found.contradiction_count, len(found.contradictions)) == (10_003, 10_000)


def test_before_the_first_known_state_nothing_contradicts():
    found = play((FREE, A, 5), (ALLOC, B, 4096), (SEGMENT_FREE, C, 2 * MIB), complete=False)
    assert found.contradiction_count == 0
    assert not found.exact_at(np.arange(4)).any()
    assert counters(found, 3, "allocated", "reserved") == (4096, 4096)


def test_events_that_change_nothing():
    found = play(SEGMENT_A, (SNAPSHOT, 0, 77), (OOM, 12345, 2**40), (0, 1, 2), (10, 1, 2), (200, 1, 2))
    assert found.contradiction_count == 0
    assert (found.counters[1:] == found.counters[1]).all()


def test_numbers_may_skip_only_behind_a_folded_free():
    rows = [SEGMENT_A, (ALLOC, A, 4 * MIB), (FREE, A, 4 * MIB, {"flags": FREED}), (ALLOC, A, 4 * MIB)]
    for numbers, missing in (((8, 9, 10, 12), 0), ((8, 9, 10, 11), 0), ((8, 9, 10, 13), 1), ((8, 10, 11, 13), 1)):
        table = events(*rows)
        table["sequence"] = numbers
        found = _replay.replay(table, [], _replay.Settings(), complete_from_start=True)
        assert kinds(found) == ["events are missing"] * missing


# Arguments -----------------------------------------------------------------------------------------------------------


def test_rows_of_any_stride_are_read_in_place():
    table = np.repeat(events(SEGMENT_A, (ALLOC, A, 4 * MIB)), 3)
    found = _replay.replay(table[::3], [], _replay.Settings(), complete_from_start=True)
    assert found.counters["allocated"].tolist() == [0, 0, 4 * MIB]
    packed = np.zeros(2, [(name, ALLOCATOR_EVENT[name]) for name in ALLOCATOR_EVENT.names])
    packed[:] = table[::3]
    assert packed.dtype.itemsize < ALLOCATOR_EVENT.itemsize
    assert (_replay.replay(packed, [], _replay.Settings(), complete_from_start=True).counters == found.counters).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"events": np.zeros(3)},
        {"events": np.zeros((2, 2), ALLOCATOR_EVENT)},
        {"events": np.zeros(2, [("action", "u1")])},
        {"events": np.zeros(2, [(n, "i4" if n == "size" else ALLOCATOR_EVENT[n]) for n in ALLOCATOR_EVENT.names])},
        {"states": [one_segment(9)]},
        {"states": [one_segment(2), one_segment(1)]},
        {"maps_at": [3]},
        {"maps_at": [-1]},
        {"unknown_from": [3]},
    ],
)
def test_arguments_that_cannot_be_are_refused(wrong):
    arguments = {"events": np.zeros(2, ALLOCATOR_EVENT), "states": []} | wrong
    rest = {name: value for name, value in arguments.items() if name not in ("events", "states")}
    with pytest.raises(ValueError, match=r"event|position|known states|column"):
        _replay.replay(arguments["events"], arguments["states"], _replay.Settings(), **rest)


def test_a_map_that_was_not_asked_for_is_a_key_error():
    with pytest.raises(KeyError, match="maps_at"):
        play(maps_at=[0]).address_map(1)


def test_very_many_large_maps_are_not_kept():
    rows = [(SEGMENT_ALLOC, A, 2 * MIB)] + [(ALLOC, A + 512 * n, 512) for n in range(2000)] + [(OOM, 0, 0)] * 1000
    found = play(*rows, maps_at=range(2000, 3001))
    assert len(found.address_map(2000)[1]) == 2000
    kept = (2**20 + len(rows)) // 2001
    assert len(found.address_map(2000 + kept - 1)[1]) == 2001
    with pytest.raises(KeyError):
        found.address_map(2000 + kept)


def test_no_events_at_all():
    found = play()
    assert found.counters.tolist() == [(0, 0, 0, 0, 0, 0, 0)]
    assert (len(found.blocks), len(found.segments), found.exact.tolist()) == (0, 0, [(0, 1, 1, 1)])
