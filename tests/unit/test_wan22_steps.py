"""benchmarks/wan22/steps.py: which step is of which sort, and what is said of them."""

import random

import pytest

from benchmarks.wan22 import steps
from benchmarks.wan22.steps import BARE, FIRST, MOST, PARTS, PAUSED, RECORDED, Steps

SORTS = [BARE, PAUSED, RECORDED]
ALL = [*SORTS, *map(steps.without, PARTS)]


def test_the_sort_changes_before_each_step_and_the_first_do_not_count():
    bar, seen = Steps(), []
    bar.plan = ["bare", "recorded"]
    bar.change = seen.append
    for timestep in bar(range(FIRST + 2), disable=True):
        seen.append(timestep)
    assert seen == [*range(FIRST), "bare", FIRST, "recorded", FIRST + 1]
    assert [sort for sort, _ in bar.counted] == ["bare", "recorded"]
    assert all(seconds > 0 for _, seconds in bar.counted)


@pytest.mark.parametrize("sorts", [SORTS, ALL])
def test_each_block_has_each_sort_once(sorts):
    plan = steps.plan(sorts, random.Random(1))
    assert MOST - len(sorts) < len(plan) <= MOST
    for first in range(0, len(plan), len(sorts)):
        assert sorted(plan[first : first + len(sorts)]) == sorted(sorts)
    assert plan[: len(sorts)] != plan[len(sorts) : 2 * len(sorts)]


def served(ranks: int, sorts, seconds) -> list:
    """Two requests on each rank, the slowest rank the last."""
    requests = [[(each, seconds[each]) for each in steps.plan(sorts, random.Random(1))]] * 2
    return [[[(sort, (rank + 1) * each) for sort, each in one] for one in requests] for rank in range(ranks)]


def test_every_sort_is_set_beside_the_bare_steps_of_the_slowest_rank():
    seconds = {BARE: 0.010, PAUSED: 0.0101, RECORDED: 0.0103}
    assert steps.compare(steps.slowest(served(2, SORTS, seconds)), SORTS) == [
        "56 blocks of 3 steps, 20.00 ms bare",
        "paused   over bare              +200 us  +1.00 % [+1.00, +1.00]",
        "recorded over bare              +600 us  +3.00 % [+3.00, +3.00]",
    ]


def test_a_part_costs_what_is_saved_without_it():
    seconds = dict.fromkeys(ALL, 0.0204) | {BARE: 0.020, PAUSED: 0.020, "no anything": 0.020, "no scopes": 0.0202}
    lines = steps.compare(steps.slowest(served(1, ALL, seconds)), ALL)
    assert len(lines) == len(ALL)
    assert lines[2] == "recorded over bare              +400 us  +2.00 % [+2.00, +2.00]"
    assert lines[3] == "recorded over no GPU events       +0 us  +0.00 % [+0.00, +0.00]"
    assert lines[6] == "recorded over no scopes         +200 us  +0.99 % [+0.99, +0.99]"
    assert lines[-1] == "recorded over no anything       +400 us  +2.00 % [+2.00, +2.00]"
