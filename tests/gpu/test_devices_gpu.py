"""Processes, GPUs and threads in other numbers than one each, against what torch says itself."""

import numpy as np
import pytest
import torch

from gpu.processes import Program, run_together, start_ranks
from gpu.programs import foreign_device, shared_gpu, two_gpus
from gpu.recorded import (
    assert_healthy,
    assert_no_gap,
    collectives_with_role,
    gpu_nanoseconds,
    of_action,
    only_trace,
    own_snapshots,
    recorded_counts,
    scopes_named,
)
from gpu.spinning import assert_near

pytestmark = pytest.mark.gpu

MIB = 1 << 20
MICROSECOND = 1_000
# Two processes take turns on one GPU, and an anchor that another's turn made wide is not rejected.
TURN = 5_000 * MICROSECOND
DRIVER_BYTES = 64 * MIB  # that the driver may take or give back for itself meanwhile


def assert_replay_is_exact(trace, device: int) -> None:
    """Every sample that knows its place and the state at the end are what the events lead to."""
    from wanhook.analysis.device_replay import DeviceReplay
    from wanhook.analysis.replay_check import check_replay

    check = check_replay(trace, DeviceReplay(trace, device))
    assert (check.refused, check.first_difference) == ([], None)
    assert check.exact
    assert check.equal == check.places > 0


def assert_all_resolved(trace) -> None:
    timed = trace.scopes[trace.scopes["timed"] != 0]
    assert len(timed)
    assert (gpu_nanoseconds(timed) >= 0).all()


def assert_as_torch_counted(trace, growth: dict, totals: dict) -> None:
    """Of the current device: every allocator event once, in torch's order, up to torch's totals at the end."""
    assert recorded_counts(trace) == growth
    assert_no_gap(trace)
    first, last = own_snapshots(trace)
    assert (first.reason, last.reason) == ("start", "stop")
    assert {name: getattr(last, name) for name in totals} == totals
    assert_replay_is_exact(trace, torch.cuda.current_device())


# Two processes, one GPU ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(what the rank said, its trace) of two ranks on one GPU, by rank."""
    folder = tmp_path_factory.mktemp("shared_gpu")
    programs = start_ranks("shared_gpu", 2, folder, folder)
    answers = [finished.answer for finished in run_together(programs, timeout=180)]
    return [(answer, only_trace(folder / str(answer["rank"]))) for answer in answers]


def test_processes_that_share_a_gpu_record_their_own_memory(shared):
    for answer, trace in shared:
        assert_healthy(trace)
        assert (trace.rank, answer["last_error"]) == (answer["rank"], 0)
        assert answer["growth"]["ALLOC"] > shared_gpu.OPERATIONS // 3
        assert set(trace.allocator_events["device"].tolist()) == {0}
        assert_as_torch_counted(trace, answer["growth"], {name: answer[name] for name in ("allocated", "reserved")})


def test_processes_that_share_a_gpu_have_their_own_spans(shared):
    """Each holds the work that its scope holds, on the one clock of the host."""
    for answer, trace in shared:
        assert_all_resolved(trace)
        spins = scopes_named(trace, "spin")
        # How much longer is the other process's matter: its turn on the GPU may come in between.
        assert (gpu_nanoseconds(spins) >= np.array(answer["nanoseconds"]) - 2 * MICROSECOND).all()
        assert (spins["gpu_begin"] >= spins["begin"] - TURN).all()
        assert (spins["gpu_end"] <= np.array(answer["done"]) + TURN).all()


def outside_of_torch(trace, scope: str) -> int:
    """Bytes of the device that this process's torch does not hold, at the begin of that scope."""
    from wanhook.tracefile.format import SampleEdge

    (asked,) = scopes_named(trace, scope)
    samples = trace.memory_samples
    (sample,) = samples[(samples["scope"] == asked["id"]) & (samples["edge"] == SampleEdge.SCOPE_BEGIN)]
    assert sample["device_total"] > 0
    return int(sample["device_total"]) - int(sample["device_free"]) - int(sample["reserved"])


@pytest.mark.real_gpu
def test_memory_outside_of_torch_shows_the_other_process(shared):
    from wanhook.analysis.device_use import device_use

    (_, first), (giver, second) = shared
    assert outside_of_torch(first, "both") >= shared_gpu.HELD[1]
    assert outside_of_torch(second, "both") >= shared_gpu.HELD[0]
    assert giver["given_back"] >= shared_gpu.HELD[1]
    change = {id(trace): outside_of_torch(trace, "before") - outside_of_torch(trace, "behind") for _, trace in shared}
    assert abs(change[id(first)] - giver["given_back"]) <= DRIVER_BYTES
    assert abs(change[id(second)]) <= DRIVER_BYTES  # what it gave back itself was not outside
    assert device_use(first, 0).outside_most.bytes >= shared_gpu.HELD[1]


# One process, two GPUs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def threads(tmp_path_factory):
    """(what the process said, its trace) of one process with a thread for each of two GPUs."""
    folder = tmp_path_factory.mktemp("two_gpus")
    (finished,) = run_together([Program("two_gpus", folder)], timeout=180)
    return finished.answer, only_trace(folder)


@pytest.mark.gpu(2)
def test_each_thread_has_its_spans_on_its_own_device_and_stream(threads):
    answer, trace = threads
    assert_healthy(trace)
    assert_all_resolved(trace)
    assert answer["contexts"] == [0, 1]
    for device, said in enumerate(answer["devices"]):
        assert said["last_error"] == 0
        assert said["current"] == [device, device]
        own = [scopes_named(trace, f"{name}{device}") for name in ("thread", "abroad", "spin", "copy")]
        assert [len(scopes) for scopes in own] == [1, 1, two_gpus.CALLS, two_gpus.CALLS]
        for scopes in own:
            assert set(scopes["device"].tolist()) == {device}
            assert set(scopes["stream"].tolist()) == {said["stream"]}
            assert {trace.threads[number][0] for number in scopes["thread"].tolist()} == {said["tid"]}


@pytest.mark.gpu(2)
def test_each_device_has_a_clock_of_its_own(threads):
    from wanhook.tracefile.format import ClockFlags

    answer, trace = threads
    anchors = trace.anchors[(trace.anchors["flags"] & ClockFlags.GPU) != 0]
    assert {0, 1} <= set(anchors["device"].tolist())
    for device, said in enumerate(answer["devices"]):
        assert_near(gpu_nanoseconds(scopes_named(trace, f"spin{device}")), said["spins"])
        (whole,) = scopes_named(trace, f"thread{device}")
        inside = scopes_named(trace, f"spin{device}")
        assert whole["gpu_begin"] < inside["gpu_begin"].min()
        assert inside["gpu_end"].max() < whole["gpu_end"]
        assert inside["gpu_begin"].min() > inside["begin"].min() - 30 * MICROSECOND


@pytest.mark.gpu(2)
def test_copies_between_the_gpus_are_timed_where_they_run(threads):
    answer, trace = threads
    for device, said in enumerate(answer["devices"]):
        assert said["copied"]
        assert_near(gpu_nanoseconds(scopes_named(trace, f"copy{device}")), said["copies"])


@pytest.mark.gpu(2)
def test_two_devices_have_an_exact_allocator_order_each(threads):
    """Also of what a thread allocated on the other one's device, and of the cache that it emptied there."""
    answer, trace = threads
    assert set(trace.allocator_events["device"].tolist()) == {0, 1}
    for device in (0, 1):
        with torch.cuda.device(device):
            assert answer["growth"][device]["ALLOC"] > 0
            assert_as_torch_counted(trace, answer["growth"][device], answer["totals"][device])
            allocated = of_action(trace, "ALLOC")
        (abroad,) = scopes_named(trace, f"abroad{1 - device}")
        (event,) = allocated[allocated["size"] == two_gpus.ABROAD[1 - device]]
        assert (event["scope"], event["thread"]) == (abroad["id"], abroad["thread"])


@pytest.mark.gpu(2)
def test_samples_are_of_the_device_that_the_thread_works_on(threads):
    from wanhook.tracefile.format import SampleEdge

    _, trace = threads
    samples = trace.memory_samples
    for device in (0, 1):
        (scope,) = scopes_named(trace, f"thread{device}")
        own = samples[samples["scope"] == scope["id"]]
        assert own["edge"].tolist() == [SampleEdge.SCOPE_BEGIN, SampleEdge.SCOPE_END]
        assert set(own["device"].tolist()) == {device}
        assert (own["device_total"] > 0).all()


# Devices that are not the current one ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """[(what the rank said unrecorded, what it said recorded, its trace)], by rank."""
    import wanhook

    folder = tmp_path_factory.mktemp("foreign_device")
    said = {}
    for kind, recording in (("bare", "none"), ("watched", folder / "recording")):
        programs = start_ranks("foreign_device", 2, folder / f"{kind}.store", recording)
        said[kind] = [finished.answer for finished in run_together(programs, timeout=180)]
    run = wanhook.load(folder / "recording")
    return [(bare, watched, run.rank(watched["rank"])) for bare, watched in zip(*said.values(), strict=True)]


@pytest.mark.real_gpu
@pytest.mark.gpu(2)
def test_collectives_are_timed_on_the_device_of_their_tensors(foreign):
    from wanhook.tracefile.format import CollectiveFlags as Flags

    for _, said, trace in foreign:
        assert_healthy(trace)
        assert (trace.collectives["device"] == said["rank"]).all()
        for name in foreign_device.SYNC:
            calls = collectives_with_role(trace, name)
            assert [trace.strings[op] for op in calls["op"]] == [name] * foreign_device.CALLS
            assert (calls["flags"] == Flags.TIMED).all()
            assert set(calls["stream"].tolist()) == {said["stream"]}
            measured, independent = gpu_nanoseconds(calls), np.array(said["nanoseconds"][name])
            allowed = 0.2 * independent + 30 * MICROSECOND
            assert (np.abs(measured - independent) <= allowed).all(), f"{measured.tolist()} for {independent.tolist()}"
        (call,) = collectives_with_role(trace, "async")
        assert call["flags"] == Flags.ASYNC | Flags.TIMED
        assert call["gpu_end"] > call["gpu_begin"] > 0


@pytest.mark.gpu(2)
def test_scopes_go_to_the_device_that_has_work(foreign):
    for _, said, trace in foreign:
        assert_all_resolved(trace)
        timed = trace.scopes[trace.scopes["timed"] != 0]
        assert set(timed["device"].tolist()) <= set(said["contexts"])
        (elsewhere,) = scopes_named(trace, "elsewhere")
        assert (elsewhere["device"], elsewhere["stream"]) == (said["rank"], said["stream"])
        assert elsewhere["gpu_end"] - elsewhere["gpu_begin"] >= 300 * MICROSECOND
        assert set(trace.allocator_events["device"].tolist()) <= {said["rank"]}


@pytest.mark.gpu(2)
def test_a_foreign_device_is_left_alone(foreign):
    """The recorder makes no context there, no error, and leaves current what was current."""
    for bare, said, _ in foreign:
        assert said["contexts"] == bare["contexts"]
        assert said["current"] == bare["current"]
        assert said["last_error"] == 0


@pytest.mark.gpu(2)
def test_a_scope_follows_the_device_that_torch_remembers(tmp_path):
    (finished,) = run_together([Program("remembered_device", tmp_path)], timeout=120)
    said, trace = finished.answer, only_trace(tmp_path)
    assert said["contexts"][1] == [0, 1], said
    (request,) = scopes_named(trace, "request")
    assert request["device"] == said["device"] == 0, said
    assert request["gpu_end"] - request["gpu_begin"] >= said["nanoseconds"] - 2 * MICROSECOND, said
