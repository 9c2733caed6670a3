"""The perturbation check in real recordings: which steps are muted, what is written inside and behind them."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import wanhook
from recorded import only_trace, paths, recorded
from wanhook import attach, recording, settings
from wanhook._native import load as load_native
from wanhook.analysis.perturbation import perturbations
from wanhook.tracefile.format import ScopeVerify

RECORDED, MUTED = ScopeVerify.RECORDED, ScopeVerify.MUTED


def steps_of(trace, name="denoise_step"):
    """The sorts of the steps of that name, by begin."""
    return [
        ScopeVerify(int(sort)) for sort in trace.scopes["verify"][trace.scopes["name"] == trace.strings.index(name)]
    ]


def run_steps(count, work=lambda: None, **options):
    for _ in range(count):
        with wanhook.trace("denoise_step", **options), wanhook.trace("inner", level="op"):
            work()


def test_steps_alternate_and_nothing_is_recorded_inside_muted_ones(tmp_path):
    def work():
        wanhook.mark("inside")
        torch.ones(100)

    with recorded(tmp_path) as result, wanhook.trace("request"):
        run_steps(40, work, verify=True)
    trace = result.trace
    sorts = steps_of(trace)
    fours = {tuple(sorts[at : at + 4]) for at in range(0, 40, 4)}
    assert fours == {(RECORDED, MUTED, MUTED, RECORDED), (MUTED, RECORDED, RECORDED, MUTED)}
    assert paths(trace).count("request/denoise_step/inner") == len(trace.marks) == 20
    muted = trace.scopes[trace.scopes["verify"] == MUTED]
    for moments in (trace.marks["time"], trace.allocator_events["time"], trace.memory_samples["time"]):
        inside = (moments[:, None] >= muted["begin"]) & (moments[:, None] <= muted["end"])
        assert not inside.any()
    assert len(trace.allocator_events) > 0 or not load_native().status()["cpu_memory"]
    # Each muted step lies between a gate that closes before it begins and opens after it has ended.
    closed, opened = trace.gates["time"][0::2], trace.gates["time"][1::2]
    assert trace.gates["open"].tolist() == [False, True] * 20
    assert ((closed <= muted["begin"]) & (muted["end"] <= opened)).all()


def test_each_recording_begins_the_same_order_anew(tmp_path):
    found = []
    for name in ("first", "second"):
        with recorded(tmp_path / name) as result:
            run_steps(24, verify=True)
        found.append(steps_of(result.trace))
    assert found[0] == found[1]


def test_environment_names_the_scope(tmp_path, monkeypatch):
    monkeypatch.setenv("WANHOOK_VERIFY", "1")
    with recorded(tmp_path / "default") as default, wanhook.trace("other"):
        run_steps(4)
    monkeypatch.setenv("WANHOOK_VERIFY", "inner")
    with recorded(tmp_path / "named") as named:
        run_steps(4)
    monkeypatch.setenv("WANHOOK_VERIFY", "0")
    with recorded(tmp_path / "none") as none:
        run_steps(4)
    assert sorted(steps_of(default.trace)) == [RECORDED, RECORDED, MUTED, MUTED]
    assert steps_of(default.trace, "other") == [ScopeVerify.NONE]
    assert sorted(steps_of(named.trace, "inner")) == [RECORDED, RECORDED, MUTED, MUTED]
    assert set(steps_of(none.trace)) == {ScopeVerify.NONE}


def test_scope_that_starts_the_recording_is_no_step(tmp_path):
    for number in range(3):
        with wanhook.trace("denoise_step", out=tmp_path / str(number), verify=True), wanhook.trace("inner"):
            pass
        trace = only_trace(tmp_path / str(number))
        assert paths(trace) == ["denoise_step", "denoise_step/inner"]
        assert set(trace.scopes["verify"]) == {0}


def test_step_inside_a_step_is_an_ordinary_scope(tmp_path):
    with recorded(tmp_path) as result:
        for _ in range(8):
            with wanhook.trace("outer", verify=True), wanhook.trace("nested", verify=True):
                pass
    assert steps_of(result.trace, "nested") == [ScopeVerify.NONE] * 4
    assert steps_of(result.trace, "outer").count(MUTED) == 4


def test_pause_of_the_program_outlasts_a_muted_step(tmp_path):
    with recorded(tmp_path) as result:
        for _ in range(4):
            with wanhook.trace("denoise_step", verify=True):
                muted = load_native().status()["paused"]
                if muted:
                    wanhook.pause()
            assert load_native().status()["paused"] == muted
            wanhook.mark("behind")
            wanhook.resume()
    assert len(result.trace.marks) == 2
    assert result.trace.gates["open"].tolist() == [False, True] * 2


def test_exception_in_a_muted_step_opens_the_gate(tmp_path):
    with recorded(tmp_path) as result:
        for _ in range(4):
            with pytest.raises(ZeroDivisionError), wanhook.trace("denoise_step", verify=True):
                print(1 / 0)
            wanhook.mark("behind")
    assert len(result.trace.marks) == 4


def test_recording_that_ends_inside_a_muted_step(tmp_path):
    with recorded(tmp_path / "first") as first:
        steps = [wanhook.trace("denoise_step", verify=True) for _ in range(2)]
        sorts = []
        for step in steps:
            step.__enter__()
            sorts.append(load_native().status()["paused"])
            if sorts[-1]:
                break
            step.__exit__(None, None, None)
        wanhook.stop()
        steps[len(sorts) - 1].__exit__(None, None, None)
    assert sorts[-1]  # one of any two neighbours at the begin is muted
    assert steps_of(first.trace)[-1] == MUTED
    with recorded(tmp_path / "second") as second:
        wanhook.mark("recorded")
        run_steps(4, verify=True)
    assert len(second.trace.marks) == 1
    assert steps_of(second.trace).count(MUTED) == 2


def test_decorated_step_and_compiled_one_take_the_keyword(tmp_path):
    @wanhook.trace("denoise_step", verify=True)
    def step():
        wanhook.mark("inside")

    with recorded(tmp_path) as result:
        for _ in range(8):
            step()
    assert steps_of(result.trace).count(MUTED) == 4
    assert len(result.trace.marks) == 4


def test_planted_slowdown_is_measured(tmp_path):
    def work():
        # A hook that takes as long as the step's own work, where it is recorded.
        until = time.perf_counter() + (0.002 if load_native().status()["paused"] else 0.004)
        while time.perf_counter() < until:
            pass

    with recorded(tmp_path) as result, wanhook.trace("request"):
        run_steps(44, work, verify=True)
    (found,) = perturbations([result.trace])
    assert (found.path, found.steps, found.muted) == ("request/denoise_step", 44, 22)
    # Twice as long, whatever the machine adds to either.
    assert found.host_time.low > 0
    assert found.host_time.high > 0.3


def test_ranks_change_together(tmp_path):
    program = (
        "import sys, wanhook\n"
        "wanhook.start(sys.argv[1])\n"
        "for _ in range(20):\n"
        "    with wanhook.trace('denoise_step', verify=True): pass\n"
        "wanhook.stop()\n"
    )
    orders = []
    for rank in range(2):
        out = tmp_path / str(rank)
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        subprocess.run([sys.executable, "-c", program, out], env=environment, check=True, timeout=120)
        orders.append(wanhook.load(out).traces[0].scopes["verify"])
    assert np.array_equal(*orders)
    assert set(orders[0]) == {RECORDED, MUTED}


@pytest.mark.parametrize(("connections", "gpu", "warned"), [("1", True, True), ("8", True, False), ("1", False, False)])
def test_one_hardware_queue_is_warned_of(tmp_path, monkeypatch, capsys, connections, gpu, warned):
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", connections)
    monkeypatch.setattr(attach, "times_gpu", lambda: gpu)
    monkeypatch.setattr(settings, "_said", set())
    for name in ("a", "b"):
        with recorded(tmp_path / name) as result:
            pass
    (warning,) = recording._warnings() or [""]
    assert result.trace.meta["warnings"] == ([warning] if warned else [])
    assert capsys.readouterr().err == (f"wanhook: {warning}\n" if warned else "")
    assert warning.startswith("CUDA_DEVICE_MAX_CONNECTIONS=1" if warned else "")
