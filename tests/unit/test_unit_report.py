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


def test_without_a_budget_there_is_no_verdict():
    assert Line("bare", Figure(-700, -700, -700, rounds=15)).verdict == ""
