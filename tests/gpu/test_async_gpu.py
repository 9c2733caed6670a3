"""Asynchronous NCCL calls and coalesced groups: timed by NCCL's own events, without a trace in the host program."""

import numpy as np
import pytest

from gpu.processes import run_together, start_ranks
from gpu.programs.async_collectives import ASYNC, CALLS, MANY, PAIRED
from gpu.recorded import assert_healthy, collectives_with_role, gpu_nanoseconds, scopes_named

pytestmark = pytest.mark.gpu

MICROSECOND = 1_000
WORLDS = [pytest.param(1, marks=pytest.mark.gpu(1)), pytest.param(2, marks=pytest.mark.gpu(2))]
TWO = [pytest.param(2, marks=pytest.mark.gpu(2))]


class Job:
    """One run of programs/async_collectives.py: what its ranks said, and their traces."""

    def __init__(self, folder, world_size: int):
        import wanhook

        programs = start_ranks("async_collectives", world_size, folder / "store", folder / "recordings")
        self.answers = [finished.answer for finished in run_together(programs, timeout=240)]
        self.runs = {name: wanhook.load(folder / "recordings" / name) for name in ("main", "stopped", "destroyed")}

    def ranks(self, recording: str = "main"):
        """(what the rank said, its trace), by rank."""
        return [(answer, self.runs[recording].rank(answer["rank"])) for answer in self.answers]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Makes each job once, and only when a test that may run here asks for it. A job that failed is not tried again."""
    made = {}

    def job(world_size: int) -> Job:
        if world_size not in made:
            try:
                made[world_size] = Job(tmp_path_factory.mktemp(f"async{world_size}"), world_size)
            except BaseException as error:
                made[world_size] = error
                raise
        if isinstance(made[world_size], BaseException):
            pytest.fail(f"the job failed before: {made[world_size]}")
        return made[world_size]

    return job


def flags():
    from wanhook.tracefile.format import CollectiveFlags

    return CollectiveFlags


def assert_inside(calls: np.ndarray, scopes: np.ndarray, closely: bool = True) -> None:
    """Each interval lies in that of the scope around launch and wait, which events of ours on the caller's stream have
    measured; ``closely``: and the two have their ends within 30 µs of one another (median)."""
    assert len(calls) == len(scopes)
    gpu_nanoseconds(calls), gpu_nanoseconds(scopes)
    early, late = calls["gpu_begin"] - scopes["gpu_begin"], scopes["gpu_end"] - calls["gpu_end"]
    print(f"begins {np.median(early) / 1000:.1f} µs after its scope, ends {np.median(late) / 1000:.1f} µs before it")
    assert (early >= -2 * MICROSECOND).all(), early.tolist()
    assert (late >= -2 * MICROSECOND).all(), late.tolist()
    if closely:
        assert np.median(early) <= 30 * MICROSECOND, early.tolist()
        assert np.median(late) <= 30 * MICROSECOND, late.tolist()


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", ASYNC)
def test_an_async_call_is_timed(jobs, world_size, name):
    """All of them, the first one of the group too."""
    for _, trace in jobs(world_size).ranks():
        calls = collectives_with_role(trace, name)
        assert [trace.strings[op] for op in calls["op"]] == [name] * CALLS
        assert (calls["flags"] == flags().ASYNC | flags().TIMED).all()
        assert (gpu_nanoseconds(calls) > 0).all()
        assert_inside(calls, scopes_named(trace, f"around {name}"))


@pytest.mark.real_gpu
@pytest.mark.parametrize("world_size", TWO)
@pytest.mark.parametrize("name", ASYNC)
def test_kinetos_kernel_fits_into_the_interval(jobs, world_size, name):
    for answer, trace in jobs(world_size).ranks():
        calls = collectives_with_role(trace, f"profiled {name}")
        kernels = np.array(answer["kernels"][name]) * 1000
        assert len(kernels) == len(calls) == CALLS
        longer = gpu_nanoseconds(calls) - kernels
        print(f"{name}: kernel {np.median(kernels) / 1000:.1f} µs, interval longer by {np.median(longer) / 1000:.1f}")
        assert (longer >= -5 * MICROSECOND).all(), longer.tolist()


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", ["sync_group", "async_group"])
def test_a_group_is_timed_as_one(jobs, world_size, name):
    for _, trace in jobs(world_size).ranks():
        rows = collectives_with_role(trace, name)
        groups = rows[(rows["flags"] & flags().GROUP) != 0]
        members = rows[(rows["flags"] & flags().GROUP) == 0]
        asynchronous = flags().ASYNC if name == "async_group" else flags()(0)
        assert {trace.strings[op] for op in groups["op"]} == {"coalesced"}
        assert (groups["tensors"] == 3).all()
        assert (groups["flags"] == flags().COALESCED | flags().GROUP | flags().TIMED | asynchronous).all()
        assert (members["flags"] == flags().COALESCED | asynchronous).all()
        assert (members["gpu_begin"] == -1).all()
        assert sorted(members["coalesced"].tolist()) == sorted(groups["coalesced"].tolist() * 3)
        assert_inside(groups, scopes_named(trace, f"around {name}"), closely=False)


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", ["sync_operator", "async_operator"])
def test_a_group_in_one_operator_is_timed(jobs, world_size, name):
    for _, trace in jobs(world_size).ranks():
        calls = collectives_with_role(trace, name)
        assert [trace.strings[op] for op in calls["op"]] == ["allreduce_coalesced_"] * CALLS
        # The group keeps NCCL's events since its first asynchronous call.
        how = flags().ASYNC if name == "async_operator" else flags().AROUND_EVENTS
        assert (calls["flags"] == flags().COALESCED | flags().GROUP | flags().TIMED | how).all()
        assert (calls["tensors"] == 3).all()
        assert_inside(calls, scopes_named(trace, f"around {name}"), closely=False)


@pytest.mark.parametrize("world_size", TWO)
@pytest.mark.parametrize("name", PAIRED)
def test_sends_and_receives_are_timed(jobs, world_size, name):
    """In a batch as a group, else each one."""
    for _, trace in jobs(world_size).ranks():
        rows = collectives_with_role(trace, name)
        assert (rows["flags"] & flags().P2P != 0).all()
        assert (rows["flags"] & flags().ASYNC != 0).all()
        moves = rows[(rows["flags"] & flags().GROUP) == 0]
        assert sorted(trace.strings[op] for op in moves["op"]) == ["recv_"] * CALLS + ["send"] * CALLS
        scopes = scopes_named(trace, f"around {name}")
        if name == "batched":
            groups = rows[(rows["flags"] & flags().GROUP) != 0]
            assert (groups["tensors"] == 2).all()
            assert (moves["gpu_begin"] == -1).all()
            assert_inside(groups, scopes, closely=False)
        else:
            assert_inside(moves[::2], scopes, closely=False)
            assert_inside(moves[1::2], scopes, closely=False)


@pytest.mark.parametrize("world_size", WORLDS)
def test_no_work_is_held(jobs, world_size):
    """Its tensors are free as soon as without a recording: after the wait, or when NCCL has forgotten the work."""
    for answer, _ in jobs(world_size).ranks():
        for state in ("bare", "recorded"):
            assert [after - before for before, after in answer[state]] == [0, 0], (state, answer[state])


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_thousand_calls(jobs, world_size):
    for _, trace in jobs(world_size).ranks():
        calls = collectives_with_role(trace, "many")
        assert len(calls) == MANY
        assert (gpu_nanoseconds(calls) > 0).all()
        assert (np.diff(calls["gpu_begin"]) > 0).all()
        # One stream: a call begins when the one before it is done; half a µs is what the events resolve.
        assert (calls["gpu_begin"][1:] - calls["gpu_end"][:-1] >= -MICROSECOND).all()
        assert_healthy(trace)


@pytest.mark.parametrize("world_size", WORLDS)
def test_captured_calls_are_marked_and_untimed(jobs, world_size):
    for answer, trace in jobs(world_size).ranks():
        assert answer["capture_problem"] == ""
        calls = collectives_with_role(trace, "captured")
        assert [trace.strings[op] for op in calls["op"]] == ["allreduce_", "broadcast_", "coalesced"]
        assert (calls["flags"] & (flags().CAPTURED | flags().TIMED) == flags().CAPTURED).all()
        assert (calls["gpu_begin"] == -1).all()


@pytest.mark.parametrize("world_size", WORLDS)
def test_sync_calls_of_the_same_group_go_on(jobs, world_size):
    for _, trace in jobs(world_size).ranks():
        (call,) = collectives_with_role(trace, "sync")
        assert call["flags"] == flags().TIMED | flags().AROUND_EVENTS
        assert call["gpu_end"] > call["gpu_begin"]


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_stop_does_not_wait_for_a_work_and_does_not_lose_it(jobs, world_size):
    for answer, trace in jobs(world_size).ranks("stopped"):
        assert answer["stop_seconds"] < 0.2
        (call,) = collectives_with_role(trace, "pending")
        assert call["gpu_end"] > call["gpu_begin"]
        assert_healthy(trace)


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_span_outlives_its_process_group(jobs, world_size):
    for _, trace in jobs(world_size).ranks("destroyed"):
        (call,) = collectives_with_role(trace, "orphaned")
        assert call["gpu_end"] > call["gpu_begin"]
        assert_healthy(trace)


@pytest.mark.parametrize("world_size", TWO)
def test_sequence_numbers_agree(jobs, world_size):
    sequences = []
    for _, trace in jobs(world_size).ranks():
        groups = trace.collectives[trace.collectives["op"] == trace.strings.index("coalesced")]
        calls = trace.collectives[trace.collectives["op"] != trace.strings.index("coalesced")]
        calls = calls[(calls["flags"] & flags().P2P) == 0]
        assert (np.diff(groups["sequence"].astype("i8")) == 1).all()
        assert (np.diff(calls["sequence"].astype("i8")) == 1).all()
        sequences.append([groups["sequence"].tolist(), calls["sequence"].tolist()])
    assert sequences[0] == sequences[1]
