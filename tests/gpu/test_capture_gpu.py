"""Graph capture in torch's default mode, in which one wrong CUDA call of any thread spoils it, beside a recording."""

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import torch

from gpu.cuda_errors import last_error
from gpu.processes import MADE_UP
from gpu.recorded import assert_healthy, gpu_nanoseconds, recorded, scopes_named
from gpu.spinning import calibrate, spin

pytestmark = pytest.mark.gpu

CAPTURES = 100
RESOLVER_ROUND = 0.012  # seconds; a capture that lasts this long meets the resolver at work
PAUSE = 0.0001  # between the traffic's scopes: some thousand spans a second, not a queue that never ends


def captured_model(source: torch.Tensor, weight: torch.Tensor, traced: bool) -> torch.Tensor:
    """The output of one capture and two replays, with scopes inside the capture or without."""
    import wanhook

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        if traced:
            with wanhook.trace("captured"), wanhook.trace("captured_op", level="op", step=1):
                result = torch.tanh(source @ weight) + source
                wanhook.mark("inside")
        else:
            result = torch.tanh(source @ weight) + source
        time.sleep(RESOLVER_ROUND)
    graph.replay()
    graph.replay()
    output = result.clone()
    graph.reset()
    return output


@contextmanager
def span_traffic():
    """Another thread opens and closes scopes of all levels on a stream of its own for as long as the block runs."""
    import wanhook

    buffer, stream = torch.zeros(1024, device="cuda"), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        buffer.add_(1)  # kernels are loaded at their first use, which a capture forbids
    torch.cuda.synchronize()
    stop, failures = threading.Event(), []

    def traffic() -> None:
        try:
            with torch.cuda.stream(stream):
                while not stop.is_set():
                    with wanhook.trace("busy"), wanhook.trace("busy_op", level="op"):
                        buffer.add_(1)
                    time.sleep(PAUSE)
        except Exception as error:  # the test reports it
            failures.append(error)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not failures, failures
    assert not thread.is_alive()


def same(result: torch.Tensor, expected: torch.Tensor) -> bool:
    return MADE_UP or torch.equal(result, expected)


@pytest.fixture
def model():
    torch.manual_seed(0)
    source = torch.randn(256, 256, device="cuda")
    weight = torch.randn(256, 256, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            torch.tanh(source @ weight) + source
    torch.cuda.synchronize()
    return source, weight


def test_every_capture_succeeds_beside_a_busy_resolver(tmp_path, model):
    expected = captured_model(*model, traced=False)
    with recorded(tmp_path) as recording, span_traffic():
        for _ in range(CAPTURES):
            assert same(captured_model(*model, traced=True), expected)
    trace = recording.trace
    for name in ("captured", "captured_op"):
        captured = scopes_named(trace, name)
        assert len(captured) == CAPTURES
        assert (captured["gpu_begin"] == -1).all()
        assert not captured["timed"].any()
    assert len(gpu_nanoseconds(scopes_named(trace, "busy_op"))) > CAPTURES
    assert_healthy(trace)


def test_first_events_of_a_thread_during_a_capture(tmp_path, model):
    """The pool runs dry in the middle of a capture, so that another thread has to create its own events."""
    import wanhook

    def open_many(depth: int) -> None:
        with torch.cuda.stream(stream), ExitStack() as stack:
            for _ in range(depth):
                stack.enter_context(wanhook.trace("deep", level="op"))

    source, weight = model
    stream, depth = torch.cuda.Stream(), 1_500
    graph = torch.cuda.CUDAGraph()
    with recorded(tmp_path) as recording, ThreadPoolExecutor(1) as other_thread:
        other_thread.submit(int).result()
        with torch.cuda.graph(graph):
            result = source @ weight
            other_thread.submit(open_many, depth).result(timeout=30)
        graph.replay()
        torch.cuda.synchronize()
        assert other_thread.submit(last_error).result() == 0
    assert same(result, source @ weight)
    assert len(gpu_nanoseconds(scopes_named(recording.trace, "deep"))) == depth
    graph.reset()


def test_a_scope_may_begin_before_a_capture_and_end_inside(tmp_path, model):
    import wanhook

    source, weight = model
    graph = torch.cuda.CUDAGraph()
    with recorded(tmp_path) as recording:
        calibrate()
        outer = wanhook.trace("outer")
        outer.__enter__()
        spin(100)
        with torch.cuda.graph(graph):
            result = source @ weight
            inner = wanhook.trace("inner")
            inner.__enter__()
            outer.__exit__(None, None, None)
        graph.replay()
        torch.cuda.synchronize()
        assert last_error() == 0
    assert same(result, source @ weight)
    assert scopes_named(recording.trace, "inner")["gpu_begin"][0] == -1
    assert not scopes_named(recording.trace, "outer")["open"][0]
    graph.reset()


def test_a_stream_that_is_being_captured_takes_no_end_event(tmp_path, model):
    """The scope began on this very stream before the capture; its span is lost, the capture is not."""
    import wanhook

    source, weight = model
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with recorded(tmp_path) as recording:
        scope = wanhook.trace("cut", level="op")
        with torch.cuda.stream(stream):
            scope.__enter__()
        with torch.cuda.graph(graph, stream=stream):
            result = source @ weight
            scope.__exit__(None, None, None)
        graph.replay()
        torch.cuda.synchronize()
        assert last_error() == 0
    assert same(result, source @ weight)
    (cut,) = scopes_named(recording.trace, "cut")
    assert cut["gpu_begin"] == -1
    assert not cut["open"]
    graph.reset()


@contextmanager
def blocking_stream():
    """A stream that waits for the legacy stream, and the legacy stream for it, as other libraries make them."""
    runtime, handle = torch.cuda.cudart(), ctypes.c_ulonglong(0)
    assert int(runtime.cudaStreamCreate(ctypes.addressof(handle))) == 0
    yield torch.cuda.ExternalStream(handle.value)
    assert int(runtime.cudaStreamDestroy(handle.value)) == 0


def test_the_legacy_stream_during_the_capture_of_a_blocking_one(tmp_path, model):
    """Asking the legacy stream whether it is captured is an error then; it must neither spoil the capture nor stay."""
    import wanhook

    def scope_on_legacy_stream() -> int:
        with wanhook.trace("legacy"), wanhook.trace("legacy_op", level="op"):
            pass
        return last_error()

    source, weight = model
    graph = torch.cuda.CUDAGraph()
    with blocking_stream() as stream, recorded(tmp_path) as recording, ThreadPoolExecutor(1) as other_thread:
        with torch.cuda.stream(stream):
            source @ weight  # cuBLAS makes its workspace for a stream at the first use
        torch.cuda.synchronize()
        before = wanhook.trace("before", level="op")
        before.__enter__()
        with torch.cuda.graph(graph, stream=stream):
            result = source @ weight
            assert other_thread.submit(scope_on_legacy_stream).result(timeout=30) == 0
            before.__exit__(None, None, None)
            assert last_error() == 0
        graph.replay()
        torch.cuda.synchronize()
        assert same(result, source @ weight)
        del result
        graph.reset()
    assert scopes_named(recording.trace, "legacy_op")["gpu_begin"][0] == -1
