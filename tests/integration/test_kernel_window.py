"""WANHOOK_KERNELS=nccl: which scope is the window, and that nothing about it reaches the program.

There is no CUPTI here: a made-up session of the profiler stands in, and gives made-up Kineto events.
"""

import sys
import threading
from dataclasses import dataclass

import pytest
from torch.autograd import DeviceType, profiler

import wanhook
from recorded import only_trace, paths
from wanhook import _C, settings
from wanhook.integrations import kernel_window
from wanhook.integrations.kernel_window import nccl_kernels

SEND = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"


@dataclass
class Event:
    """A Kineto event, as far as it is read."""

    text: str
    kind: DeviceType = DeviceType.CUDA
    begin: int = 0
    length: int = 10
    number: int = 1
    device: int = 0
    stream: int = 20

    name = lambda self: self.text  # noqa: E731
    device_type = lambda self: self.kind  # noqa: E731
    start_ns = lambda self: self.begin  # noqa: E731
    duration_ns = lambda self: self.length  # noqa: E731
    correlation_id = lambda self: self.number  # noqa: E731
    device_index = lambda self: self.device  # noqa: E731
    device_resource_id = lambda self: self.stream  # noqa: E731


class Sessions:
    """Stands in for CudaActivities: counts what is asked for; ``fails`` names the step that raises."""

    def __init__(self, events=()):
        self.events, self.finished, self.fails = list(events), True, ""
        self.said: list[str] = []

    def __call__(self):
        return self

    def begin(self):
        self.said.append("begin")
        if self.fails == "begin":
            raise RuntimeError("Profiler is already enabled\nwith a second line")

    def end(self):
        self.said.append("end")
        if self.fails == "end":
            raise RuntimeError("no such session")
        return self.events, self.finished


@pytest.fixture
def sessions(monkeypatch):
    made = Sessions([Event("cuLaunchKernelEx", DeviceType.CPU, begin=5), Event(SEND, begin=100)])
    monkeypatch.setattr(kernel_window, "CudaActivities", made)
    monkeypatch.setattr(kernel_window, "_why_not", lambda: "")
    monkeypatch.setattr(kernel_window, "_warm", True)
    monkeypatch.setattr(settings, "_said", set())
    monkeypatch.setenv("WANHOOK_KERNELS", "nccl")
    monkeypatch.setenv("WANHOOK_KERNELS_WINDOW", "step:2")
    return made


def record(out, count=3, inside=lambda step: None):
    wanhook.start(out)
    try:
        with wanhook.trace("request"):
            for step in range(count):
                with wanhook.trace("step"):
                    inside(step)
    finally:
        wanhook.stop()
    return only_trace(out)


def test_the_window_is_the_scope_that_was_asked_for(tmp_path, sessions):
    seen = []
    trace = record(tmp_path, inside=lambda step: seen.append(list(sessions.said)))
    assert seen == [[], ["begin"], ["begin", "end"]]
    assert paths(trace) == ["request", *["request/step"] * 3]
    about = trace.meta["kernel_window"]
    second = trace.scopes[trace.scopes["path"] == trace.paths.index("request/step")][1]
    assert (about["name"], about["instance"], about["scope"]) == ("step", 2, second["id"])
    assert (about["activities"], about["nccl"], about["written"], about["gpu_finished"]) == (1, 1, 1, True)
    assert about["begin"] <= about["end"]
    begin, end = trace.clock.from_realtime([about["begin"], about["end"]])
    assert begin <= second["begin"] + 1_000_000  # opened before the scope, closed after it
    assert end >= second["end"] - 1_000_000
    (kernel,) = trace.kernels
    assert (trace.strings[kernel["name"]], kernel["window"], kernel["stream_number"]) == (
        "ncclDevKernel_SendRecv", second["id"], 20,
    )  # fmt: skip
    assert trace.meta["notes"] == []


def test_nothing_is_watched_without_being_asked(tmp_path, sessions, monkeypatch):
    monkeypatch.delenv("WANHOOK_KERNELS")
    original = profiler.profile._prepare_trace
    trace = record(tmp_path, inside=lambda step: sessions.said.append(profiler.profile._prepare_trace is original))
    assert sessions.said == [True] * 3
    assert "kernel_window" not in trace.meta


def test_each_recording_has_its_own_window(tmp_path, sessions):
    for name in "ab":
        assert len(record(tmp_path / name).kernels) == 1
    assert sessions.said == ["begin", "end"] * 2


def test_the_outermost_scope_can_be_the_window(tmp_path, sessions, monkeypatch):
    monkeypatch.setenv("WANHOOK_KERNELS_WINDOW", "all of it:1")
    with wanhook.trace("all of it", out=tmp_path):
        pass
    assert len(only_trace(tmp_path).kernels) == 1


def test_decorated_functions_and_exceptions_end_the_window_too(tmp_path, sessions):
    @wanhook.trace("step")
    def step(fail):
        if fail:
            raise KeyError("of the program")

    wanhook.start(tmp_path)
    step(False)
    with pytest.raises(KeyError, match="of the program"):
        step(True)
    assert sessions.said == ["begin", "end"]
    wanhook.stop()
    assert len(only_trace(tmp_path).kernels) == 1


def test_a_recording_that_ends_inside_the_window_keeps_its_kernels(tmp_path, sessions):
    wanhook.start(tmp_path)
    for _ in range(2):
        scope = wanhook.trace("step")
        scope.__enter__()
        if not sessions.said:
            scope.__exit__(None, None, None)
    wanhook.stop()
    scope.__exit__(None, None, None)
    assert sessions.said == ["begin", "end"]
    (kernel,) = only_trace(tmp_path).kernels
    assert kernel["window"] == 0


def test_a_scope_that_never_came_is_noted(tmp_path, sessions):
    (note,) = record(tmp_path, count=1).meta["notes"]
    assert note == "kernels were asked for and not recorded: it ended before scope 2 named 'step' had"


@pytest.mark.parametrize("step", ["begin", "end"])
def test_a_profiler_that_fails_costs_one_line(tmp_path, sessions, capfd, step):
    sessions.fails = step
    trace = record(tmp_path, count=6)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("wanhook: kernels are not recorded: torch's profiler could not be ")
    assert line.removeprefix("wanhook: ") in trace.meta["notes"]
    assert sessions.said.count("begin") == 1
    assert paths(trace) == ["request", *["request/step"] * 6]
    assert len(trace.kernels) == 0


def test_without_a_gpu_one_line_says_so(tmp_path, sessions, monkeypatch, capfd):
    monkeypatch.undo()
    monkeypatch.setattr(settings, "_said", set())
    monkeypatch.setenv("WANHOOK_KERNELS", "nccl")
    monkeypatch.setenv("WANHOOK_KERNELS_WINDOW", "step:2")
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    trace = record(tmp_path)
    assert capfd.readouterr().err == "wanhook: kernels are not recorded: no GPU is in use\n"
    assert trace.meta["notes"] == ["kernels are not recorded: no GPU is in use"]


def test_a_profiler_that_runs_already_goes_first(tmp_path, sessions, monkeypatch, capfd):
    monkeypatch.setattr(kernel_window, "_why_not", lambda: "a profiler is running already")
    assert record(tmp_path).meta["notes"] == ["kernels are not recorded: a profiler is running already"]
    assert sessions.said == []
    assert capfd.readouterr().err.count("\n") == 1


def profile_on_the_cpu():
    with profiler.profile(use_kineto=True) as profiled:
        sum(range(10))
    return profiled


def test_the_programs_profiler_before_the_window_calls_it_off(tmp_path, sessions):
    trace = record(tmp_path, inside=lambda step: profile_on_the_cpu() if step == 0 else None)
    assert trace.meta["notes"] == ["kernels are not recorded: the program profiles by itself"]
    assert sessions.said == []


def test_the_programs_profiler_inside_the_window_ends_it_first(tmp_path, sessions):
    said = []

    def inside(step):
        if step == 1:
            profile_on_the_cpu()
            said.extend(sessions.said)

    trace = record(tmp_path, inside=inside)
    assert said == ["begin", "end"]
    assert len(trace.kernels) == 1
    assert trace.meta["notes"] == ["the kernel window ended early: the program began to profile by itself"]


def test_everything_is_put_back(tmp_path, sessions):
    places = profiler.profile._prepare_trace, profiler._run_on_profiler_start
    record(tmp_path / "a")
    assert (profiler.profile._prepare_trace, profiler._run_on_profiler_start) == places
    record(tmp_path / "b", count=1)
    assert (profiler.profile._prepare_trace, profiler._run_on_profiler_start) == places


def test_a_gpu_that_never_finishes_is_not_waited_for(monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: hang.wait(60))
    try:
        assert kernel_window._wait_for_gpu(0.05) is False
    finally:
        hang.set()
    assert kernel_window._wait_for_gpu(60) is True
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: 1 / 0)
    assert kernel_window._wait_for_gpu(60) is False

    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert kernel_window._wait_for_gpu(60) is False


def test_kernels_are_told_from_everything_else():
    events = [
        Event("cudaLaunchKernelExC", DeviceType.CPU, begin=50, number=7),
        Event("cudaEventRecord", DeviceType.CPU, begin=60, number=8),
        Event("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", begin=100, length=25, number=7),
        Event("nccl:all_gather", begin=100, number=8),  # an annotation
        Event("void gemm<float>", begin=130, number=9),
        Event(SEND, begin=200, number=8, device=1, stream=30),
    ]
    rows, seen = nccl_kernels(events)
    assert rows == [
        ("ncclDevKernel_AllGather_RING_LL", 0, 20, 100, 125, 50),
        ("ncclDevKernel_SendRecv", 1, 30, 200, 210, 0),
    ]
    assert seen == 4


def test_a_watcher_that_raises_is_kept_from_the_program(tmp_path, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: unraisable.append(about.exc_type))
    answers = iter([1, 1.5, 0])

    def entered():
        return next(answers)

    def left(number, scope):
        raise ValueError("of the watcher")

    wanhook.start(tmp_path)
    try:
        _C.watch_scopes("watched", entered, left)
        for _ in range(4):
            with wanhook.trace("watched"), wanhook.trace("another"):
                pass
        _C.watch_no_scopes()
        with wanhook.trace("watched"):
            pass
    finally:
        _C.watch_no_scopes()
        wanhook.stop()
    assert unraisable == [ValueError, TypeError, StopIteration]
