"""Properties of the block model: right for any valid events, and standing for any others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_events import MIB, MadeAllocator
from wanhook import _replay
from wanhook.tracefile.format import AllocatorAction, BlockState
from wanhook.tracefile.tables import ALLOCATOR_EVENT

COUNTERS = ("requested", "allocated", "active", "reserved", "inactive_split", "free", "largest_free")
REQUESTS = st.one_of(st.integers(1, 4096), st.integers(1, 2 * MIB), st.integers(1, 80 * MIB))
STEPS = st.lists(
    st.tuples(st.sampled_from(["alloc", "alloc", "free", "defer", "complete", "empty"]), REQUESTS, st.integers(0, 99)),
    max_size=80,
)


def made(steps, expandable) -> MadeAllocator:
    allocator, live, pending = MadeAllocator(expandable=expandable), [], []
    for what, size, chosen in steps:
        if what == "alloc":
            live.append(allocator.alloc(size))
        elif what in ("free", "defer") and live:
            block = live.pop(chosen % len(live))
            allocator.free(block, deferred=what == "defer")
            pending += [block] if what == "defer" else []
        elif what == "complete" and pending:
            allocator.complete(pending.pop(chosen % len(pending)))
        elif what == "empty":
            allocator.empty_cache()
    return allocator


def replayed(allocator, **options):
    events = allocator.events()
    everywhere = range(len(events) + 1)
    made_settings = _replay.Settings(expandable_segments=allocator.expandable)
    return _replay.replay(events, [], made_settings, complete_from_start=True, maps_at=everywhere, **options)


@pytest.mark.parametrize("expandable", [False, True])
@settings(deadline=None, max_examples=150)
@given(steps=STEPS)
def test_valid_events_give_the_allocators_own_state_at_every_position(expandable, steps):
    allocator = made(steps, expandable)
    found = replayed(allocator)
    assert found.contradiction_count == 0
    assert found.exact_at(np.arange(len(allocator.truth))).all()
    for position, truth in enumerate(allocator.truth):
        assert {name: int(found.counters[position][name]) for name in COUNTERS} == {n: truth[n] for n in COUNTERS}
        segments, blocks = found.address_map(position)
        assert list(zip(segments["address"].tolist(), segments["total"].tolist(), strict=True)) == truth["segments"]
        assert [tuple(row) for row in blocks[["address", "size", "state", "requested"]].tolist()] == truth["blocks"]


@pytest.mark.parametrize("expandable", [False, True])
@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_lives_add_up_to_the_counters(expandable, steps):
    found = replayed(made(steps, expandable))
    lives, counters = found.blocks, found.counters
    assert (np.diff(lives["begin"]) >= 0).all()
    for position in range(len(counters)):
        active = lives[(lives["begin"] <= position) & (position < lives["end"])]
        assert active["size"].sum() == counters["active"][position]
        assert active["requested"].sum() == counters["requested"][position]
        assert active["size"][position < active["freed"]].sum() == counters["allocated"][position]
        own = found.segments[active["segment"]]
        assert ((own["begin"] <= position) & (position < own["end"])).all()
        assert (own["address"] <= active["address"]).all()


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, cut=st.integers(0, 80), expandable=st.booleans())
def test_a_replay_from_a_known_state_in_the_middle_is_the_same(steps, cut, expandable):
    allocator = made(steps, expandable)
    whole, events = replayed(allocator), allocator.events()
    cut = min(cut, len(events))
    state = _replay.KnownState(0, *whole.address_map(cut))
    rest = _replay.replay(events[cut:], [state], _replay.Settings(expandable_segments=expandable))
    assert rest.contradiction_count == 0
    assert (rest.counters == whole.counters[cut:]).all()
    assert rest.exact.tolist() == [(0, len(events) - cut + 1, len(events) - cut + 1, 1)]


@settings(deadline=None, max_examples=100)
@given(steps=STEPS, apart=st.integers(1, 5), expandable=st.booleans())
def test_states_that_tell_nothing_new_leave_every_life_as_it_is(steps, apart, expandable):
    allocator = made(steps, expandable)
    whole, events = replayed(allocator), allocator.events()
    states = [_replay.KnownState(at, *whole.address_map(at)) for at in range(0, len(events) + 1, apart)]
    told = _replay.replay(events, states, _replay.Settings(expandable_segments=expandable), complete_from_start=True)
    assert told.contradiction_count == 0
    assert (told.counters == whole.counters).all()
    assert told.blocks.tolist() == whole.blocks.tolist()
    assert told.segments.tolist() == whole.segments.tolist()


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, place=st.integers(0, 80))
def test_a_missing_event_is_noticed(steps, place):
    events = made(steps, False).events()
    if len(events) < 3:
        return
    gone = 1 + place % (len(events) - 2)  # what is lost before the first and behind the last event has no number
    found = _replay.replay(np.delete(events, gone), [], _replay.Settings(), complete_from_start=True)
    first = found.contradictions[0]
    assert (first["position"], first["kind"]) == (gone, 1)
    assert _replay.CONTRADICTION_KINDS[1] == "events are missing"
    assert not found.exact_at(np.array([gone]))[0]
    assert found.exact_at(np.array([gone - 1]))[0]


# Anything at all ---------------------------------------------------------------------------------------------------

ADDRESSES = st.one_of(
    st.sampled_from([MIB * n for n in range(1, 60)] + [512 * n for n in range(1, 20)]),
    st.integers(0, 2**64 - 1),
    st.sampled_from([2**64 - 512, 2**63, 2**60, 2**47]),
)
SIZES = st.one_of(st.integers(0, 64 * MIB), st.sampled_from([0, 1, 512, MIB, 2 * MIB, 20 * MIB, 2**47, 2**64 - 1]))
GARBAGE = st.lists(
    st.tuples(
        st.sampled_from([*AllocatorAction, *AllocatorAction, 77]),
        st.sampled_from([0, 0, 1, 255]),
        ADDRESSES,
        SIZES,
        st.sampled_from([0, 7]),
        st.sampled_from([0, 0, 3, 2**31 + 1]),
    ),
    max_size=150,
)


def garbage_events(rows) -> np.ndarray:
    events = np.zeros(len(rows), ALLOCATOR_EVENT)
    for column, name in enumerate(("action", "flags", "address", "size", "stream", "pool")):
        events[name] = np.array([row[column] for row in rows], events.dtype[name])
    return events


def assert_sound(segments, blocks, counters) -> None:
    """The address map holds together, and the counters are its sums."""
    ends = segments["address"] + segments["total"]
    assert (segments["address"][1:] >= ends[:-1]).all()
    assert segments["blocks"].sum() == len(blocks)
    at = 0
    for segment, end in zip(segments, ends, strict=True):
        own = blocks[at : at + segment["blocks"]]
        at += len(own)
        assert own["address"][0] == segment["address"]
        assert own["address"][-1] + own["size"][-1] == end
        assert (own["address"][1:] == own["address"][:-1] + own["size"][:-1]).all()
        assert (own["size"] > 0).all()
        free = own["state"] == BlockState.INACTIVE
        assert not (free[1:] & free[:-1]).any()
    active, used = blocks["state"] != BlockState.INACTIVE, blocks["state"] == BlockState.ALLOCATED
    assert counters["reserved"] == segments["total"].sum()
    assert counters["allocated"] == blocks["size"][used].sum()
    assert counters["active"] == blocks["size"][active].sum()
    assert counters["free"] == blocks["size"][~active].sum()
    assert counters["largest_free"] == blocks["size"][~active].max(initial=0)
    assert np.uint64(counters["requested"]) == blocks["requested"][active].sum(dtype=np.uint64)
    alone = np.repeat(segments["blocks"] == 1, segments["blocks"])
    expandable = np.repeat((segments["flags"] & 2) != 0, segments["blocks"])
    assert counters["inactive_split"] == blocks["size"][~active & ~alone & ~expandable].sum()


@settings(deadline=None, max_examples=300)
@given(rows=GARBAGE, expandable=st.booleans(), known=st.booleans())
def test_any_events_leave_a_sound_map(rows, expandable, known):
    events = garbage_events(rows)
    chosen = _replay.Settings(expandable_segments=expandable)
    everywhere = range(len(events) + 1)
    found = _replay.replay(events, [], chosen, complete_from_start=known, maps_at=everywhere)
    for position in everywhere:
        assert_sound(*found.address_map(position), found.counters[position])
    assert (found.blocks["begin"] <= found.blocks["freed"]).all()
    assert (found.blocks["freed"] <= found.blocks["end"]).all()
    bare = _replay.replay(events, [], chosen, complete_from_start=known, largest_free=False, blocks=False)
    for name in COUNTERS[:-1]:
        assert (bare.counters[name] == found.counters[name]).all()
    assert (bare.counters["largest_free"] == -1).all()
    assert bare.contradiction_count == found.contradiction_count


@settings(deadline=None, max_examples=200)
@given(rows=GARBAGE, data=st.data())
def test_any_known_state_is_survived(rows, data):
    events = garbage_events(rows)
    segments = np.zeros(data.draw(st.integers(0, 6)), _replay.SEGMENT)
    blocks = np.zeros(data.draw(st.integers(0, 12)), _replay.BLOCK)
    for table, sizes in ((segments, "total"), (blocks, "size")):
        for row in table:
            row["address"], row[sizes] = data.draw(ADDRESSES), data.draw(SIZES)
    segments["flags"] = [data.draw(st.integers(0, 3)) for _ in segments]
    blocks["state"] = [data.draw(st.integers(0, 4)) for _ in blocks]
    positions = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    states = [_replay.KnownState(position, segments, blocks) for position in positions]
    everywhere = range(len(events) + 1)
    found = _replay.replay(events, states, _replay.Settings(), maps_at=everywhere)
    for position in everywhere:
        assert_sound(*found.address_map(position), found.counters[position])
    epochs = found.exact
    assert (epochs["begin"][1:] == epochs["end"][:-1]).all()
    assert (epochs["begin"][0], epochs["end"][-1]) == (0, len(events) + 1)


@settings(deadline=None, max_examples=50)
@given(rows=GARBAGE)
def test_any_events_of_a_host_are_survived(rows):
    events = garbage_events(rows)
    found = _replay.replay(events, [], _replay.Settings(), host=True, complete_from_start=True)
    lives = found.blocks
    for position in range(len(events) + 1):
        alive = lives[(lives["begin"] <= position) & (position < lives["end"])]
        assert alive["size"].sum() == found.counters["active"][position] == found.counters["allocated"][position]
        assert len(np.unique(alive["address"])) == len(alive)
