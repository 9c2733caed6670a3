import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wanhook.analysis import intervals

EDGE = 40
SPANS = st.lists(st.tuples(st.integers(-EDGE, EDGE), st.integers(-EDGE, EDGE)), max_size=12)


def as_set(spans):
    return np.array(spans, np.int64).reshape(-1, 2)


def moments(spans):
    return {moment for begin, end in spans for moment in range(begin, end)}


def assert_canonical(found):
    assert (found.dtype, found.shape[1:]) == (np.int64, (2,))
    flat = found.ravel()
    assert (flat[1:] > flat[:-1]).all()


@given(SPANS, SPANS)
def test_set_operations_agree_with_sets_of_moments(first, second):
    for operation, expected in [
        (intervals.union, moments(first) | moments(second)),
        (intervals.intersection, moments(first) & moments(second)),
        (intervals.subtraction, moments(first) - moments(second)),
    ]:
        found = operation(as_set(first), as_set(second))
        assert_canonical(found)
        assert moments(found.tolist()) == expected


@given(SPANS)
def test_coverage_counts_each_moment_once(spans):
    assert intervals.coverage(as_set(spans)) == len(moments(spans))


@given(SPANS)
def test_canonical_sets_stay_as_they_are(spans):
    once = intervals.union(as_set(spans))
    assert np.array_equal(intervals.union(once), once)


def test_touching_intervals_become_one():
    assert intervals.union(as_set([(5, 7), (0, 5)])).tolist() == [[0, 7]]


def test_nanoseconds_since_boot_keep_their_last_digit():
    begin = 2**62
    assert intervals.coverage(as_set([(begin, begin + 3), (begin + 1, begin + 4)])) == 4


def test_nothing_in_nothing_out():
    empty = as_set([])
    assert intervals.union().tolist() == intervals.union(empty).tolist() == []
    assert intervals.intersection(empty, as_set([(0, 1)])).tolist() == []
    assert intervals.coverage(empty) == 0


def test_of_pairs_begins_with_ends():
    assert intervals.of(np.array([1, 5]), np.array([3, 6])).tolist() == [[1, 3], [5, 6]]
