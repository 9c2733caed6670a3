"""Collectives over NCCL: what is timed, how well, and that nothing about the host program changes."""

import numpy as np
import pytest

from gpu.processes import run_together, start_ranks
from gpu.programs.collectives import CALLS, TIMED
from gpu.recorded import assert_healthy, collectives_with_role, gpu_nanoseconds

pytestmark = pytest.mark.gpu

MICROSECOND = 1_000
WORLDS = [pytest.param(1, marks=pytest.mark.gpu(1)), pytest.param(2, marks=pytest.mark.gpu(2))]


class Job:
    """One run of programs/collectives.py: what its ranks said, and their traces."""

    def __init__(self, folder, world_size: int):
        import wanhook

        programs = start_ranks("collectives", world_size, folder / "store", folder / "recording")
        self.answers = [finished.answer for finished in run_together(programs, timeout=180)]
        self.run = wanhook.load(folder / "recording")

    def ranks(self):
        """(what the rank said, its trace), by rank."""
        return [(answer, self.run.rank(answer["rank"])) for answer in self.answers]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Makes each job once, and only when a test that may run here asks for it. A job that failed is not tried again."""
    made = {}

    def job(world_size: int) -> Job:
        if world_size not in made:
            try:
                made[world_size] = Job(tmp_path_factory.mktemp(f"nccl{world_size}"), world_size)
            except BaseException as error:
                made[world_size] = error
                raise
        if isinstance(made[world_size], BaseException):
            pytest.fail(f"the job failed before: {made[world_size]}")
        return made[world_size]

    return job


@pytest.mark.real_gpu
@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", TIMED)
def test_a_sync_collective_is_timed(jobs, world_size, name):
    """Its span is positive and agrees with an independent pair of events around the same call."""
    from wanhook.tracefile.format import CollectiveFlags

    for answer, trace in jobs(world_size).ranks():
        calls = collectives_with_role(trace, name)
        assert [trace.strings[op] for op in calls["op"]] == [name] * CALLS
        assert (calls["flags"] == CollectiveFlags.TIMED).all()
        assert (calls["device"] == answer["device"]).all()
        measured, independent = gpu_nanoseconds(calls), np.array(answer["nanoseconds"][name])
        assert (measured > 0).all()
        allowed = 0.2 * independent + 30 * MICROSECOND
        assert (np.abs(measured - independent) <= allowed).all(), f"{measured.tolist()} for {independent.tolist()} ns"


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("role", ["async", "coalesced", "batched"])
def test_async_and_coalesced_calls_are_counted_and_have_one_time(jobs, world_size, role):
    """More of them: test_async_gpu.py."""
    from wanhook.tracefile.format import CollectiveFlags as Flags

    if role == "batched" and world_size == 1:
        return  # nobody to send to
    member = Flags.COALESCED | Flags.P2P | Flags.ASYNC
    group = Flags.COALESCED | Flags.GROUP | Flags.TIMED | Flags.AROUND_EVENTS  # NCCL's, since the asynchronous call
    expected = {"async": [Flags.ASYNC | Flags.TIMED], "coalesced": [group],
                "batched": [member, member, member | Flags.GROUP | Flags.TIMED]}  # fmt: skip
    for _, trace in jobs(world_size).ranks():
        calls = collectives_with_role(trace, role)
        assert calls["flags"].tolist() == expected[role]
        timed = (calls["flags"] & Flags.TIMED) != 0
        assert ((calls["gpu_end"] > calls["gpu_begin"]) == timed).all()
        assert (calls["gpu_begin"][~timed] == -1).all()
        assert (calls["returned"] >= calls["begin"]).all()


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_captured_collective_is_marked_and_untimed(jobs, world_size):
    from wanhook.tracefile.format import CollectiveFlags

    for answer, trace in jobs(world_size).ranks():
        assert answer["capture_problem"] == ""
        (call,) = collectives_with_role(trace, "captured")
        assert call["flags"] == CollectiveFlags.CAPTURED
        assert call["gpu_begin"] == -1


@pytest.mark.real_gpu
@pytest.mark.parametrize("world_size", WORLDS)
def test_results_do_not_depend_on_the_recording(jobs, world_size):
    for answer, _ in jobs(world_size).ranks():
        assert answer["hooked"] == answer["bare"]
        assert answer["recorded"] == answer["bare"]


@pytest.mark.parametrize("world_size", WORLDS)
def test_groups_ranks_and_sequence_numbers(jobs, world_size):
    """All ranks number the calls of a group alike; numbers run on without a gap, also over calls before the start."""
    from wanhook.tracefile.format import CollectiveFlags

    sequences = []
    for _, trace in jobs(world_size).ranks():
        assert_healthy(trace)
        calls = trace.collectives[(trace.collectives["flags"] & CollectiveFlags.P2P) == 0]
        (number,) = set(trace.collectives["group"].tolist())
        group = trace.groups[number]
        assert (group.backend.split(",")[0], group.size) == ("nccl", world_size)
        assert group.ranks is None or list(group.ranks) == list(range(world_size))
        sequences.append(calls["sequence"].tolist())
        assert (np.diff(calls["sequence"].astype("i8")) == 1).all()
        assert sequences[-1][0] >= len(TIMED)
    assert all(sequence == sequences[0] for sequence in sequences)


@pytest.mark.parametrize("world_size", WORLDS)
def test_no_rank_has_a_context_on_another_ones_gpu(jobs, world_size):
    answers = jobs(world_size).answers
    assert [answer["contexts"] for answer in answers] == [[answer["device"]] for answer in answers]
