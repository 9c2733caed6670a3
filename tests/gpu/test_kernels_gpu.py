"""WANHOOK_KERNELS=nccl over NCCL: every collective of the window has its kernel, and it lies where it must."""

import numpy as np
import pytest

from gpu.processes import run_together, start_ranks
from gpu.programs.kernels import CALLS, SORTS
from gpu.recorded import assert_healthy
from wanhook.tracefile.format import CollectiveFlags

pytestmark = [pytest.mark.gpu(2), pytest.mark.real_gpu]

SLACK = 5_000  # ns: GPU times come over our anchors, kernels over Kineto's clock


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(answer, trace) of each rank, and the calls that began in the window."""
    import wanhook

    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANHOOK_KERNELS", "nccl")
        patch.setenv("WANHOOK_KERNELS_WINDOW", "step:2")
        programs = start_ranks("kernels", 2, folder / "store", folder / "recording")
    finished = run_together(programs, timeout=180)
    run = wanhook.load(folder / "recording")
    ranks = []
    for answer in (each.answer for each in finished):
        trace = run.rank(answer["rank"])
        step = trace.scopes[trace.scopes["id"] == trace.meta["kernel_window"]["scope"]][0]
        inside = (trace.collectives["begin"] >= step["begin"]) & (trace.collectives["begin"] <= step["end"])
        ranks.append((answer, trace, inside))
    return ranks


def with_role(trace, calls, role: str):
    return calls[calls["role"] == trace.strings.index(role)]


def test_the_window_is_whole_and_nothing_else_suffered(job):
    for answer, trace, inside in job:
        assert_healthy(trace)
        assert trace.meta["notes"] == []
        about = trace.meta["kernel_window"]
        assert about["gpu_finished"]
        assert about["written"] == about["nccl"] == len(trace.kernels) > 0
        assert answer["contexts"] == [answer["rank"]]
        assert (trace.collectives["kernels"][~inside] == 0).all()


@pytest.mark.parametrize("op", SORTS)
@pytest.mark.parametrize("role", ["sync", "async"])
def test_every_call_has_one_kernel_of_its_own(job, role, op):
    for _, trace, inside in job:
        calls = with_role(trace, trace.collectives[inside], role)
        calls = calls[calls["op"] == trace.strings.index(op)]
        assert len(calls) == CALLS * (3 if role == "sync" else 1)
        assert calls["kernels"].tolist() == [1] * len(calls)
        assert calls["kernel_calls"].tolist() == [1] * len(calls)
        assert (calls["kernel_end"] > calls["kernel_begin"]).all()
        assert (calls["kernel_begin"] >= calls["begin"]).all()


@pytest.mark.parametrize("op", SORTS)
def test_a_sync_kernel_lies_inside_its_stream_interval(job, op):
    for _, trace, inside in job:
        calls = with_role(trace, trace.collectives[inside], "sync")
        calls = calls[calls["op"] == trace.strings.index(op)]
        assert (calls["gpu_begin"] >= 0).all()
        early, late = calls["gpu_begin"] - calls["kernel_begin"], calls["kernel_end"] - calls["gpu_end"]
        assert (np.maximum(early, late) <= SLACK).all(), f"early {early.tolist()}, late {late.tolist()} ns"


def test_kernels_are_those_that_kineto_saw_on_one_stream_after_another(job):
    """No kernel is used twice, none is left over, and those of one stream do not overlap."""
    for _, trace, _inside in job:
        assert (trace.kernels["collective"] > 0).all()
        assert (trace.kernels["launch"] > 0).all()
        assert (trace.kernels["launch"] < trace.kernels["begin"] + SLACK).all()
        for stream in np.unique(trace.kernels["stream_number"]):
            own = trace.kernels[trace.kernels["stream_number"] == stream]
            assert (own["begin"][1:] >= own["end"][:-1]).all()


def test_a_batched_pair_shares_its_kernel(job):
    for _, trace, inside in job:
        calls = with_role(trace, trace.collectives[inside], "coalesced")
        whole = (calls["flags"] & CollectiveFlags.GROUP) != 0
        assert calls["kernel_calls"][~whole].tolist() == [2, 2]
        assert calls["kernel_calls"][whole].tolist() == [1]
        assert len({(int(call["kernel_begin"]), int(call["kernel_end"])) for call in calls}) == 1
