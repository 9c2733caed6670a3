"""A rank that is late at a collective: its start shifts by so much, and the others' intervals grow by so much."""

import numpy as np
import pytest

from gpu.processes import run_together, start_ranks
from gpu.programs.planted_spins import LATE_RANK, PLANTED, ROUNDS, role_of
from gpu.recorded import assert_healthy, collectives_with_role

pytestmark = pytest.mark.gpu(2)

WITHIN = 0.05


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(ns that each planted spin really took, by its nominal µs; the two ranks' traces)."""
    import wanhook

    folder = tmp_path_factory.mktemp("planted")
    programs = start_ranks("planted_spins", 2, folder / "store", folder / "recording")
    answers = [finished.answer for finished in run_together(programs, timeout=120)]
    run = wanhook.load(folder / "recording")
    (late,) = (answer for answer in answers if answer["rank"] == LATE_RANK)
    return {int(planted): ns for planted, ns in late["spun"].items()}, [run.rank(rank) for rank in range(2)]


def calls(traces, planted: int) -> tuple[np.ndarray, np.ndarray]:
    """The exchanges after that spin of the rank that is in time and of the late one, call by call."""
    found = [collectives_with_role(trace, role_of(planted)) for trace in traces]
    for each in found:
        assert len(each) == ROUNDS
        assert (each["gpu_begin"] >= 0).all()
    return found[1 - LATE_RANK], found[LATE_RANK]


@pytest.mark.parametrize("planted", PLANTED[1:])
def test_the_late_rank_begins_later_by_the_spin(job, planted):
    spun, traces = job

    def shift(number: int) -> float:
        prompt, late = calls(traces, number)
        return float(np.median(late["gpu_begin"] - prompt["gpu_begin"]))

    assert shift(planted) - shift(0) == pytest.approx(spun[planted], rel=WITHIN)


@pytest.mark.parametrize("planted", PLANTED[1:])
def test_the_prompt_rank_s_interval_grows_by_the_spin(job, planted):
    spun, traces = job

    def length(number: int) -> float:
        prompt, _ = calls(traces, number)
        return float(np.median(prompt["gpu_end"] - prompt["gpu_begin"]))

    assert length(planted) - length(0) == pytest.approx(spun[planted], rel=WITHIN)


@pytest.mark.parametrize("planted", PLANTED[1:])
def test_the_late_rank_s_own_interval_does_not_grow(job, planted):
    spun, traces = job
    lengths = [np.median(late["gpu_end"] - late["gpu_begin"]) for late in (calls(traces, n)[1] for n in (planted, 0))]
    assert lengths[0] - lengths[1] == pytest.approx(0, abs=WITHIN * spun[planted])


def test_nothing_was_lost(job):
    for trace in job[1]:
        assert_healthy(trace)
