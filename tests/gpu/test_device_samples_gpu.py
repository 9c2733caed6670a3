"""The true NVML: samples of the GPU that the process uses, whatever number it has there; and muted steps on a GPU."""

import pytest
import torch

from gpu.processes import Program, running
from gpu.recorded import assert_healthy, only_trace, recorded, scopes_named
from gpu.spinning import calibrate, spin
from wanhook.tracefile.format import ScopeVerify

START_SECONDS = 60
CLOCKS = 1


def sampled(tmp_path, visible):
    program = Program("sampled", tmp_path, environment={"CUDA_VISIBLE_DEVICES": visible})
    with running(program):
        answer = program.finish(START_SECONDS).answer
    return only_trace(tmp_path), answer


@pytest.mark.real_gpu
@pytest.mark.gpu
def test_samples_are_plausible(tmp_path):
    trace, answer = sampled(tmp_path, "0")
    assert_healthy(trace)
    samples = trace.device_samples
    assert 1 <= len(samples) <= 3
    assert set(samples["device"]) == {0}
    assert (samples["valid"] & CLOCKS == CLOCKS).all()
    assert ((samples["sm_clock"] >= 100) & (samples["sm_clock"] <= 5000)).all()
    measured = samples[samples["valid"] & 8 != 0]
    assert ((measured["temperature"] > 0) & (measured["temperature"] < 120)).all()
    assert trace.meta["gpus"]["0"]["uuid"] == answer["uuid"]
    assert answer["before"] == answer["after"]


@pytest.mark.real_gpu
@pytest.mark.gpu(2)
def test_gpu_is_matched_where_cuda_numbers_it_anew(tmp_path):
    trace, answer = sampled(tmp_path, "1")
    about = trace.meta["gpus"]["0"]
    assert about["uuid"] == answer["uuid"]
    assert set(trace.device_samples["device"]) == {0}
    first, first_answer = sampled(tmp_path / "first", "0")
    assert first_answer["uuid"] != answer["uuid"]
    assert first_answer["uuid"] in about["peers"]
    assert isinstance(about["peers"][first_answer["uuid"]]["nvlink"], bool)
    assert first.meta["gpus"]["0"]["pci_bus_id"] != about["pci_bus_id"]


@pytest.mark.gpu
def test_muted_steps_are_timed_and_nothing_inside_them(tmp_path):
    import wanhook

    calibrate()
    with recorded(tmp_path) as result:
        for _ in range(16):
            with wanhook.trace("step", verify=True):
                with wanhook.trace("inner", level="op"):
                    torch.empty(1 << 20, device="cuda").add_(1)
                spin(2000)
    trace = result.trace
    assert_healthy(trace)
    steps = scopes_named(trace, "step")
    muted = steps[steps["verify"] == ScopeVerify.MUTED]
    assert (len(steps), len(muted)) == (16, 8)
    assert (steps["gpu_end"] - steps["gpu_begin"] >= 1_500_000).all()
    assert len(scopes_named(trace, "inner")) == 8
    events = trace.allocator_events["time"]
    assert len(events)
    assert not ((events[:, None] > muted["begin"]) & (events[:, None] < muted["end"])).any()
    # The state behind each step, of either sort, is whole; behind a recorded one it is there to be compared with.
    reasons = [state.reason for state in trace.snapshots if state.complete]
    assert (reasons.count("resume"), reasons.count("checkpoint")) == (8, 8)
