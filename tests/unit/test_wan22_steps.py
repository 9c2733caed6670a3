"""benchmarks/wan22/steps.py: which step is of which sort, and what is said of them."""

import random
from collections import Counter

import pytest

from benchmarks.wan22 import steps
from benchmarks.wan22.steps import BLOCKS, FIRST, ORDERS, PARTS, RUN, Planned, Steps


def test_sorts_change_between_steps_and_only_what_is_planned_counts():
    bar, seen = Steps(), []
    bar.plan = [Planned("bare", True, False), Planned("bare", False, True), Planned("recorded", True, True)]
    bar.change = seen.append
    for timestep in bar(range(FIRST + 3), disable=True):
        seen.append(timestep)
    assert seen == [*range(FIRST), "bare", FIRST, FIRST + 1, "recorded", FIRST + 2]
    assert [sort for sort, _ in bar.counted] == ["bare", "recorded"]
    assert all(seconds > 0 for _, seconds in bar.counted)


@pytest.mark.parametrize("order", ORDERS)
def test_first_step_of_a_run_does_not_count(order):
    plan = steps.plan_runs(order)
    assert [each.sort for each in plan[::RUN]] == list(order)
    assert [each.counts for each in plan[:RUN]] == [False] + [True] * (RUN - 1)
    assert [each.first for each in plan[:RUN]] == [True] + [False] * (RUN - 1)


def test_each_block_has_each_part_once():
    plan = steps.plan_parts(random.Random(1))
    assert Counter(each.sort for each in plan) == dict.fromkeys(PARTS, BLOCKS)
    for first in range(0, len(plan), len(PARTS)):
        assert {each.sort for each in plan[first : first + len(PARTS)]} == set(PARTS)


def served(ranks: int, plan, seconds) -> list:
    """Two requests on each rank, the slowest rank the last."""
    requests = [[(each.sort, seconds[each.sort]) for each in plan]] * 2
    return [[[(sort, (rank + 1) * each) for sort, each in one] for one in requests] for rank in range(ranks)]


def test_change_of_runs_is_that_of_the_slowest_rank():
    plan = [each for each in steps.plan_runs(ORDERS[0]) if each.counts]
    lines = steps.compare_runs(steps.slowest(served(2, plan, {"bare": 0.010, "recorded": 0.0103})))
    assert lines == ["4 pairs of runs of 6 steps, bare step 20.00 ms, recorded +3.00 % [+3.00, +3.00]"]


def test_a_part_costs_what_is_saved_without_it():
    seconds = dict.fromkeys(PARTS, 0.0204) | {"nothing": 0.020, "no scopes": 0.0202}
    lines = steps.compare_parts(steps.slowest(served(1, steps.plan_parts(random.Random(1)), seconds)))
    assert lines[0] == f"{2 * BLOCKS} blocks of {len(PARTS)} steps, 20.40 ms with everything"
    assert lines[1] == "everything over no GPU events       +0 us  +0.00 % [+0.00, +0.00]"
    assert lines[-2:] == [
        "everything over no scopes         +200 us  +0.99 % [+0.99, +0.99]",
        "everything over nothing           +400 us  +2.00 % [+2.00, +2.00]",
    ]
