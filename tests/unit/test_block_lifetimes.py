"""Lifetimes of blocks against a dict that plays the allocator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanhook.analysis.block_lifetimes import NOT_RECORDED, Epoch, lifetimes
from wanhook.tracefile.format import AllocatorAction, AllocatorFlags
from wanhook.tracefile.tables import ALLOCATOR_EVENT

A = AllocatorAction
ADDRESSES = st.integers(1, 6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alloc"), ADDRESSES, st.integers(1, 1000)),
        st.tuples(st.sampled_from(["free", "free later", "complete", "segment"]), ADDRESSES, st.just(0)),
    ),
    max_size=40,
)
STRETCHES = st.sampled_from([1, 2, 3, 7, 1000])
BEFORE = st.dictionaries(ADDRESSES, st.integers(1, 1000), max_size=4)


def events_of(steps):
    events = np.zeros(len(steps), ALLOCATOR_EVENT)
    actions = {
        "alloc": A.ALLOC,
        "free": A.FREE_REQUESTED,
        "free later": A.FREE_REQUESTED,
        "complete": A.FREE_COMPLETED,
        "segment": A.SEGMENT_ALLOC,
    }
    for number, (what, address, size) in enumerate(steps):
        events[number]["action"], events[number]["address"], events[number]["size"] = actions[what], address, size
        events[number]["flags"] = AllocatorFlags.FREE_FOLDED if what == "free" else 0
        events[number]["scope"] = number + 1
    return events


def played(live, steps, first=0):
    """(address -> (size, owner)) after each step, the first state being `live`."""
    live, states = dict(live), [dict(live)]
    for number, (what, address, size) in enumerate(steps, first):
        if what == "alloc":
            live[address] = size, number + 1
        elif what in ("free", "complete"):
            live.pop(address, None)
        states.append(dict(live))
    return states


def epoch(begin, end, blocks, owner):
    address, size = (np.array(list(column), np.int64) for column in (blocks, blocks.values()))
    return Epoch(begin, end, 0, address, size, np.full(len(blocks), owner))


def assert_same(found, states):
    sums = [sum(size for size, _ in state.values()) for state in states]
    assert found.live_bytes(len(states)).tolist() == sums
    for position, state in enumerate(states):
        alive = found.alive(position)
        blocks = zip(found.size[alive].tolist(), found.scope[alive].tolist(), strict=True)
        assert sorted(blocks) == sorted(state.values())


@given(BEFORE, STEPS, STRETCHES)
def test_live_blocks_are_those_of_the_allocator(before, steps, stretch):
    found = lifetimes(events_of(steps), [epoch(0, len(steps), before, -1)], stretch)
    assert_same(found, played({address: (size, -1) for address, size in before.items()}, steps))


@given(STEPS, BEFORE, STEPS, STRETCHES)
def test_a_later_snapshot_tells_anew_and_known_owners_stay(first, snapshot, second, stretch):
    steps = first + second
    epochs = [epoch(0, len(first), {}, -1), epoch(len(first), len(steps), snapshot, NOT_RECORDED)]
    found = lifetimes(events_of(steps), epochs, stretch)
    states = played({}, first)
    last = states.pop()
    kept = {at: last[at] if last.get(at, (0,))[0] == size else (size, NOT_RECORDED) for at, size in snapshot.items()}
    assert_same(found, states + played(kept, second, len(first)))


@pytest.mark.parametrize("stretch", [1, 2, 1000])
def test_what_does_not_fit_is_counted(stretch):
    steps = [("free", 1, 0), ("alloc", 2, 10), ("alloc", 2, 20), ("complete", 2, 0), ("complete", 2, 0)]
    found = lifetimes(events_of(steps), [epoch(0, len(steps), {}, -1)], stretch)
    assert (found.unknown_frees, found.replaced) == (2, 1)
    assert found.live_bytes(6).tolist() == [0, 0, 10, 20, 0, 0]


def test_frees_on_the_cpu_need_no_completion():
    events = events_of([("alloc", 1, 10), ("free later", 1, 0)])
    events["device"] = -1
    assert lifetimes(events, [epoch(0, 2, {}, -1)]).live_bytes(3).tolist() == [0, 10, 0]
