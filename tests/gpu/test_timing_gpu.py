"""GPU times of scopes, beside independent pairs of torch's own events."""

import threading
import time

import numpy as np
import pytest
import torch

from gpu.recorded import assert_healthy, gpu_nanoseconds, only_trace, recorded, scopes_named
from gpu.spinning import assert_equal_lengths, calibrate, nanoseconds, spin, timing_event, watched_spin

pytestmark = pytest.mark.gpu

MICROSECOND = 1_000
MILLISECOND = 1_000_000
CLOCK_TOLERANCE = 30 * MICROSECOND  # half the widest bracket in which an anchor was seen, twice


@pytest.fixture(autouse=True)
def calibrated():
    calibrate()
    torch.cuda.synchronize()


@pytest.mark.parametrize("microseconds", [60, 400, 2_000, 15_000])
def test_a_scope_lasts_as_long_as_its_work(tmp_path, microseconds):
    with recorded(tmp_path) as recording:
        watched_spin("warm-up", microseconds)
        pairs = [watched_spin("spin", microseconds) for _ in range(20)]
    assert_equal_lengths(gpu_nanoseconds(scopes_named(recording.trace, "spin")), pairs)
    assert_healthy(recording.trace)


def test_a_side_stream_is_timed_on_its_own(tmp_path):
    side = torch.cuda.Stream()
    with recorded(tmp_path) as recording:
        spin(60_000)
        with torch.cuda.stream(side):
            watched_spin("warm-up", 500)
            pairs = [watched_spin("side", 500) for _ in range(10)]
    found = scopes_named(recording.trace, "side")
    assert set(found["stream"].tolist()) == {side.cuda_stream}
    assert_equal_lengths(gpu_nanoseconds(found), pairs)


def test_the_end_goes_to_the_stream_of_the_begin(tmp_path):
    """Leaving on another stream, or with another stream current, does not move the end event there."""
    import wanhook

    side = torch.cuda.Stream()
    with recorded(tmp_path) as recording:
        spin(80_000)  # the default stream: an end event there would come this late
        scope = wanhook.trace("moved", level="op")
        with torch.cuda.stream(side):
            scope.__enter__()
            spin(3_000)
        scope.__exit__(None, None, None)
    (moved,) = scopes_named(recording.trace, "moved")
    assert moved["stream"] == side.cuda_stream
    assert 2 * MILLISECOND < moved["gpu_end"] - moved["gpu_begin"] < 20 * MILLISECOND


def test_nested_scopes_lie_inside_one_another(tmp_path):
    import wanhook

    with recorded(tmp_path) as recording:
        for _ in range(20):
            spin(200)
            with wanhook.trace("outer", level="block"):
                spin(100)
                with wanhook.trace("inner", level="op"):
                    spin(100)
                spin(100)
    outer, inner = scopes_named(recording.trace, "outer"), scopes_named(recording.trace, "inner")
    assert (outer["gpu_begin"] < inner["gpu_begin"]).all()
    assert (inner["gpu_end"] < outer["gpu_end"]).all()
    assert (outer["gpu_end"][:-1] < outer["gpu_begin"][1:]).all()


def test_times_hold_over_several_references(tmp_path):
    """Over more than three references a span's begin agrees with events that torch measured from one fixed event."""
    import wanhook

    base = timing_event()
    begins = []
    with recorded(tmp_path) as recording:
        base.record()
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            begin = timing_event()
            spin(300)
            begin.record()
            with wanhook.trace("tick", level="op"):
                spin(50)
            begins.append(begin)
            time.sleep(0.02)
        long = watched_spin("long", 1_500_000)
    ticks = scopes_named(recording.trace, "tick")
    independent = np.array([nanoseconds(base, begin) for begin in begins])
    off = (ticks["gpu_begin"] - ticks["gpu_begin"][0]) - (independent - independent[0])
    assert np.abs(off).max() <= 40 * MICROSECOND, f"off by up to {np.abs(off).max()} ns"
    anchors = recording.trace.anchors
    assert (anchors["device"] == torch.cuda.current_device()).sum() >= 4
    (across,) = gpu_nanoseconds(scopes_named(recording.trace, "long"))
    assert across == pytest.approx(nanoseconds(*long), abs=20 * MICROSECOND)


def test_gpu_times_lie_between_the_hosts(tmp_path):
    """On the host's clock, work begins after the call that enqueued it and is done when synchronize() returns."""
    import wanhook

    done = []
    with recorded(tmp_path) as recording:
        for _ in range(50):
            time.sleep(0.02)
            with wanhook.trace("work", level="op"):
                spin(200)
            torch.cuda.synchronize()
            done.append(time.monotonic_ns())
    work = scopes_named(recording.trace, "work")
    assert (work["gpu_begin"] >= work["begin"] - CLOCK_TOLERANCE).all()
    assert (work["gpu_end"] <= np.array(done) + CLOCK_TOLERANCE).all()
    lag = np.median(work["gpu_begin"] - work["begin"])
    assert lag < 200 * MICROSECOND, f"an idle stream begins {lag} ns after the host's call: the clocks do not agree"


def test_a_second_recording_has_a_clock_of_its_own(tmp_path):
    """Also one that is over long before the next anchor would have been due."""
    for number in range(2):
        with recorded(tmp_path / str(number)) as recording:
            pairs = [watched_spin("spin", 300) for _ in range(5)]
            done = time.monotonic_ns() + MILLISECOND * 100
        found = scopes_named(recording.trace, "spin")
        assert_equal_lengths(gpu_nanoseconds(found), pairs)
        assert (found["gpu_begin"] >= found["begin"] - CLOCK_TOLERANCE).all()
        assert (found["gpu_end"] <= done).all()


def test_two_threads_time_their_own_streams(tmp_path):
    lengths = {"left": 300, "right": 700}
    ahead = 15_000  # a thread can wait for the GIL for 5 ms, more than once
    pairs, streams = {}, {name: torch.cuda.Stream() for name in lengths}

    def work(name: str) -> None:
        with torch.cuda.stream(streams[name]):
            pairs[name] = [watched_spin(name, lengths[name], ahead) for _ in range(20)]

    with recorded(tmp_path) as recording:
        threads = [threading.Thread(target=work, args=(name,)) for name in lengths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name, stream in streams.items():
        found = scopes_named(recording.trace, name)
        assert set(found["stream"].tolist()) == {stream.cuda_stream}
        assert len(set(found["thread"].tolist())) == 1
        assert_equal_lengths(gpu_nanoseconds(found), pairs[name])


def test_two_threads_may_share_a_stream(tmp_path):
    """They hand their events over in another order than they recorded them; none is lost, none runs backwards."""
    import wanhook

    repeats = 300

    def work() -> None:
        for _ in range(repeats):
            with wanhook.trace("shared", level="op"):
                spin(5)

    with recorded(tmp_path) as recording:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(scopes_named(recording.trace, "shared")) == 2 * repeats
    assert (gpu_nanoseconds(scopes_named(recording.trace, "shared")) > 0).all()
    assert_healthy(recording.trace)


def test_an_open_scope_does_not_hold_up_the_stop(tmp_path):
    """Its end may never come. Waiting is for spans that have ended on the host and are under way on the GPU."""
    import wanhook

    wanhook.start(tmp_path)
    with wanhook.trace("closed", level="op"):
        spin(300)
    scope = wanhook.trace("open", level="op")
    scope.__enter__()
    began = time.monotonic()
    wanhook.stop(wait=8)
    waited = time.monotonic() - began
    state = only_trace(tmp_path).health.state
    scope.__exit__(None, None, None)
    assert waited < 4
    assert state == "stopped"
    trace = only_trace(tmp_path)
    assert scopes_named(trace, "open")["gpu_begin"][0] == -1
    assert len(gpu_nanoseconds(scopes_named(trace, "closed"))) == 1


@pytest.mark.gpu(2)
def test_a_scope_belongs_to_the_device_it_began_on(tmp_path):
    import wanhook

    with recorded(tmp_path) as recording:
        scope = wanhook.trace("elsewhere", level="op")
        with torch.cuda.device(1):
            spin(300)
            scope.__enter__()
            begin, end = timing_event(), timing_event()
            begin.record()
            spin(1_000)
            end.record()
        scope.__exit__(None, None, None)
        assert torch.cuda.current_device() == 0
        torch.cuda.synchronize(1)
    (elsewhere,) = scopes_named(recording.trace, "elsewhere")
    assert elsewhere["device"] == 1
    assert_equal_lengths(gpu_nanoseconds(scopes_named(recording.trace, "elsewhere")), [(begin, end)])
