"""benchmarks/unit_report.py: what a figure says about its budget."""

import pytest

from benchmarks.rounds import Figure
from benchmarks.unit_report import Line


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (10, 40, "pass"),
        (-40, -39, "pass"),
        (41, 60, "miss"),
        (39, 41, "unclear"),
        (-100, 41, "unclear"),
        (-700, -41, "unclear"),  # recording makes nothing faster
    ],
)
def test_verdict_is_that_of_the_whole_interval(low, high, verdict):
    assert Line("recorded", Figure((low + high) / 2, low, high, rounds=15), budget=40).verdict == verdict


@pytest.mark.parametrize(
    ("control", "verdict"),
    [((-3, 3), "pass"), ((0, 10), "pass"), ((-11, 0), "unclear"), ((5, 11), "unclear"), ((-11, -5), "unclear")],
)
def test_what_is_found_where_nothing_differs_counts_as_doubt(control, verdict):
    line = Line("recorded", Figure(20, 10, 30, rounds=20), budget=40, control=Figure(0, *control, rounds=20))
    assert line.verdict == verdict


def test_a_miss_needs_more_than_the_doubt():
    control = Figure(0, -1, 5, rounds=20)
    assert Line("recorded", Figure(50, 44, 60, rounds=20), budget=40, control=control).verdict == "unclear"
    assert Line("recorded", Figure(50, 46, 60, rounds=20), budget=40, control=control).verdict == "miss"


def test_without_a_budget_there_is_no_verdict():
    assert Line("bare", Figure(-700, -700, -700, rounds=15)).verdict == ""
