import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wanhook.analysis.range_maximum import Ranges


@st.composite
def values_and_ranges(draw):
    values = draw(st.lists(st.integers(-100, 100), min_size=1, max_size=50))
    edges = st.tuples(st.integers(0, len(values)), st.integers(0, len(values))).filter(lambda edge: edge[0] < edge[1])
    return values, draw(st.lists(edges, max_size=30))


@given(values_and_ranges(), st.integers(1, 60))
def test_each_range_has_the_maximum_of_its_slice(case, stretch):
    values, ranges = case
    begin, end = np.array(ranges, np.int64).reshape(-1, 2).T
    ranges_of = Ranges(begin, end)
    pieces = ranges_of.pieces(np.dtype(np.int64))
    for first in range(0, len(values), stretch):
        ranges_of.reduce(pieces, first, np.array(values[first : first + stretch]))
    found = ranges_of.maximum(pieces)
    assert found.tolist() == [max(values[first:last]) for first, last in ranges]
