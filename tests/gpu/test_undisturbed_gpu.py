"""What a recording must leave alone: memory, CUDA's error state, contexts, other tools, and the end of the process."""

import time

import pytest
import torch

from gpu.allocating import COUNTERS
from gpu.cuda_errors import last_error, take_error
from gpu.processes import Program, run_together, running
from gpu.programs.endings import HANG_SECONDS
from gpu.recorded import gpu_nanoseconds, only_trace, recorded, scopes_named
from gpu.spinning import calibrate, spin

pytestmark = pytest.mark.gpu

START_SECONDS = 60  # a process that imports torch and starts CUDA on a busy machine
MICROSECOND = 1_000


def test_no_cuda_error_is_left_on_the_hosts_thread(tmp_path):
    """The next kernel launch or cudaMalloc of torch would raise it as its own."""
    import wanhook

    calibrate()
    with recorded(tmp_path) as recording:
        for number in range(200):
            with wanhook.trace("stage"), wanhook.trace("op", level="op", number=number):
                spin(20)
            assert last_error() == 0
        with torch.cuda.stream(torch.cuda.Stream()), wanhook.trace("side"):
            spin(100_000)
        time.sleep(0.05)  # the resolver meets work that is not done
        assert last_error() == 0
        torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    assert last_error() == 0
    assert len(gpu_nanoseconds(scopes_named(recording.trace, "op"))) == 200


@pytest.mark.real_gpu
def test_an_error_of_the_host_program_is_not_swallowed(tmp_path):
    """A pending error belongs to whoever made it, and is found where it would have been found without us."""
    import wanhook

    torch.cuda.init()
    with recorded(tmp_path):
        with wanhook.trace("before", level="op"):
            spin(10)
        torch.cuda.synchronize()
        # Memory that nobody registered: refused, not sticky, and kept as this thread's last error.
        block = torch.empty(1, dtype=torch.uint8)
        refused = int(torch.cuda.cudart().cudaHostUnregister(block.data_ptr()))
        assert refused != 0
        assert last_error() == refused
        with wanhook.trace("pending", level="op"):
            pass
        assert take_error() == refused
    assert last_error() == 0


@pytest.mark.real_gpu
def test_peaks_and_results_are_those_of_an_unrecorded_process(tmp_path):
    """In fresh processes, recorded and unrecorded in turn."""
    answers = {"none": [], "recorded": []}
    for turn in range(3):
        pair = [Program("peaks", "none"), Program("peaks", tmp_path / str(turn))]
        for kind, finished in zip(answers, run_together(pair, timeout=120), strict=True):
            answers[kind].append(finished.answer)
    assert len({str(sorted(answer.items())) for answer in answers["none"]}) == 1, "the program itself is not steady"
    assert answers["recorded"] == answers["none"]
    events = only_trace(tmp_path / "0").allocator_events
    assert len(events) > answers["none"][0]["allocations"]


@pytest.mark.real_gpu
def test_profiler_and_memory_history_beside_a_recording(tmp_path):
    from wanhook.tracefile.format import AllocatorAction, AllocatorFlags

    (finished,) = run_together([Program("beside_profilers", tmp_path)], timeout=120)
    answer, trace = finished.answer, only_trace(tmp_path)
    assert answer["last_error"] == 0
    assert answer["kernels"] > 20
    assert answer["history"] > 500
    events = trace.allocator_events
    for action in COUNTERS:
        count = int((events["action"] == AllocatorAction[action]).sum())
        if action == "FREE_COMPLETED":
            count += int(((events["flags"] & AllocatorFlags.FREE_FOLDED) != 0).sum())
        assert count == answer["growth"][action], action
    assert len(gpu_nanoseconds(scopes_named(trace, "matmul"))) == 20
    assert {snapshot.reason for snapshot in trace.snapshots} == {"start", "stop"}


@pytest.mark.parametrize("device", [pytest.param(index, marks=pytest.mark.gpu(index + 1)) for index in range(2)])
def test_no_context_is_made_on_a_gpu_that_is_not_used(tmp_path, device):
    """Not by an early scope, not by a thread whose current device is GPU 0, not by the resolver."""
    pair = [Program("contexts", device, "none"), Program("contexts", device, tmp_path)]
    bare, watched = (finished.answer for finished in run_together(pair, timeout=180))
    independent = watched.pop("nanoseconds")
    bare.pop("nanoseconds")
    assert watched == bare
    trace = only_trace(tmp_path)
    call = trace.collectives[-1]
    assert call["device"] == device
    assert 0 < call["gpu_end"] - call["gpu_begin"] <= independent * 1.2 + 30 * MICROSECOND


def assert_readable_after_a_crash(trace) -> None:
    """All scopes are there, all but the last few rounds' with their GPU times, and the file knows it was cut off."""
    assert trace.health.state == "recording"
    assert trace.health.crashed
    assert trace.health.damage == []
    assert trace.device_type == "cuda"
    operations = scopes_named(trace, "op")
    assert len(operations) > 100
    old = operations[operations["begin"] < operations["begin"][-1] - 200_000_000]
    assert (gpu_nanoseconds(old) > 50 * MICROSECOND).all()
    assert scopes_named(trace, "request")["open"][0]
    assert len(trace.allocator_events) > 100


def test_os_exit_leaves_a_readable_file(tmp_path):
    (finished,) = run_together([Program("endings", "exits", tmp_path, tmp_path / "ready")], timeout=START_SECONDS)
    assert finished.returncode == 7, finished.output
    assert_readable_after_a_crash(only_trace(tmp_path))


def test_kill_leaves_a_readable_file(tmp_path):
    """CUDA came up after the start of this recording."""
    program = Program("endings", "works", tmp_path, tmp_path / "ready")
    with running(program):
        program.wait_for_file(tmp_path / "ready", START_SECONDS)
        time.sleep(0.123)
        program.kill()
    assert_readable_after_a_crash(only_trace(tmp_path))


def test_a_hung_gpu_does_not_hang_the_exit(tmp_path):
    (finished,) = run_together([Program("endings", "hangs", tmp_path, tmp_path / "ready")], timeout=START_SECONDS)
    answer, trace = finished.answer, only_trace(tmp_path)
    assert answer["left"] - answer["began"] < 2.6
    assert finished.at - answer["queued"] < HANG_SECONDS + 4.0
    assert trace.health.state == "exited"
    assert trace.health.unresolved == 1
    assert scopes_named(trace, "hung")["gpu_begin"][0] == -1
    assert len(gpu_nanoseconds(scopes_named(trace, "quick"))) == 1


def test_daemon_threads_end_with_the_interpreter(tmp_path):
    """Up to Python 3.13 one that asks for the GIL then is ended wherever it is."""
    (finished,) = run_together([Program("endings", "daemons", tmp_path, tmp_path / "ready")], timeout=START_SECONDS)
    assert finished.returncode == 0, finished.output
    trace = only_trace(tmp_path)
    assert trace.health.state == "exited"
    # One that waits for room can keep the others out of the driver.
    assert sum(len(scopes_named(trace, name)) for name in ("op", "wait", "fails")) > 500
