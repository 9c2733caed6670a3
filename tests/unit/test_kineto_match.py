"""The join of wanhook's collectives with Kineto's kernels, on made-up files of a run."""

from dataclasses import dataclass

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import kineto_matrix, kineto_window
from benchmarks.kineto_clock import CALIBRATION
from benchmarks.kineto_match import Case, Kernels, analyse
from made_trace import TraceBuilder

US, MS = 1_000, 1_000_000
CALLS = 10
SHIFT = 3 * US  # Kineto's clock runs so far ahead
LEAD, LAG = 3 * US, 2 * US  # from the begin event to the kernel, from the kernel to the end event
CASES = [Case("all_gather", "sync", "compute", "busy", 1 << 20), Case("all_gather", "sync", "compute", "idle", 1 << 20)]


class MadeRun:
    """A rank's trace and its kernels; `kernel_late` is what the idle kernels wait for the host."""

    def __init__(self, folder):
        self.folder, self.kernels = folder, []
        self.builder = TraceBuilder()
        self.builder.group("0", (0, 1))

    def kernel(self, name: str, begin: int, end: int, stream: int = 7) -> None:
        start = self.builder.start_realtime
        self.kernels.append((0, name, stream, start + begin + SHIFT, start + end + SHIFT))

    def fill(self, lead_of_idle: int = 20 * US) -> None:
        for at in range(MS, 2 * MS, 100 * US):
            self.builder.scope(CALIBRATION, 0, 10, gpu=(at, at + 35 * US), stream=0)
            self.kernel("spin_kernel", at + LEAD, at + 35 * US - LAG)
        for number, case in enumerate(CASES):
            for call in range(CALLS):
                at = (3 + number * CALLS + call) * MS
                idle = case.situation == "idle"
                called = at - 4 * US if idle else at - 500 * US
                lead = lead_of_idle if idle else LEAD
                fields = {"role": case.role, "stream": 0, "bytes_in": 64}
                self.builder.collective("_allgather_base_", called, returned=called + 45 * US, **fields,
                                        gpu=(at, at + 200 * US))  # fmt: skip
                self.kernel("ncclDevKernel_AllGather_RING_LL(args)", at + lead, at + 200 * US - LAG)

    def save(self) -> None:
        self.builder.save(self.folder / "rank0.wanhook")
        kineto_window.save(self.folder / "kernels-rank0.npz", self.kernels[::-1])


@pytest.fixture
def run(tmp_path):
    return MadeRun(tmp_path)


def test_calls_meet_their_kernels(run):
    run.fill()
    run.save()
    found = analyse(run.folder)
    assert found["problems"] == found["untimed"] == []
    busy, idle = found["cases"]
    assert (busy["n"], busy["classes"], busy["difference_ns"]) == (CALLS, {"busy_alone": CALLS}, [LEAD + LAG] * 3)
    assert (idle["n"], idle["classes"]) == (CALLS, {"idle": CALLS})
    (clock,) = found["clocks"]
    assert abs(clock["least_ns"] - (SHIFT - LAG)) <= 1
    assert abs(clock["most_ns"] - (SHIFT + LEAD)) <= 1
    assert [each["start_inside"] for each in (busy, idle)] == [1, 1]
    assert all(each["passed"] for each in found["verdict"])
    assert "busy_alone:10" in kineto_matrix.text(found)


def test_a_kernel_outside_its_bounds_fails(run):
    run.fill(lead_of_idle=100 * US)
    run.save()
    found = analyse(run.folder)
    assert found["classes"]["idle"]["start_inside"] == 0
    assert [each["what"] for each in found["verdict"] if not each["passed"]] == [
        "idle: share of spans whose bounds contain Kineto's start"
    ]


def test_a_lost_kernel_is_told_and_the_others_are_met_all_the_same(run):
    run.fill()
    del run.kernels[-3]
    run.save()
    found = analyse(run.folder)
    assert found["problems"] == [
        f"rank 0: session 0: {2 * CALLS} calls and {2 * CALLS - 1} kernels are not the same calls"
    ]
    assert [each["n"] for each in found["cases"]] == [CALLS, CALLS - 1]
    assert found["cases"][1]["difference_ns"] == [22 * US] * 3


def test_without_a_calibration_the_kernels_place_the_clocks(run):
    run.fill()
    run.kernels = [row for row in run.kernels if row[1] != "spin_kernel"]
    run.save()
    found = analyse(run.folder)
    assert len(found["problems"]) == 1
    (clock,) = found["clocks"]
    assert clock["least_ns"] - 1 <= SHIFT <= clock["most_ns"] + 1


def test_a_rank_without_kernels_is_said(run):
    run.fill()
    run.save()
    (run.folder / "kernels-rank0.npz").unlink()
    found = analyse(run.folder)
    assert found["problems"] == ["rank 0: kernels-rank0.npz is missing"]
    assert found["cases"] == []


def test_a_scope_names_the_case_of_calls_that_have_a_role_of_their_own(run):
    case = kineto_matrix.fsdp_case(1)
    scope = run.builder.scope(case.role, MS, 2 * MS, gpu=(MS, 2 * MS), stream=0)
    run.builder.collective("_allgather_base_", MS, returned=MS, role="fsdp", scope=scope, gpu=(MS, 2 * MS), stream=9)
    run.kernel("ncclDevKernel_AllGather_RING_LL(args)", MS + LEAD, 2 * MS - LAG, stream=20)
    run.save()
    found = analyse(run.folder)
    assert [(each["op"], each["mode"], each["n"]) for each in found["cases"]] == [("fsdp all_gather", "fsdp1", 1)]


def test_a_role_names_its_case():
    for case in CASES:
        assert Case.of(case.role) == case
    assert Case.of("qkv") is None


@dataclass
class Event:
    """As torch's profiler gives it."""

    called: str
    kind: DeviceType = DeviceType.CUDA
    length: int = 500
    annotation: bool = False

    name = lambda self: self.called  # noqa: E731
    device_type = lambda self: self.kind  # noqa: E731
    device_resource_id = lambda self: 7  # noqa: E731
    start_ns = lambda self: 1000  # noqa: E731
    duration_ns = lambda self: self.length  # noqa: E731
    is_user_annotation = lambda self: self.annotation  # noqa: E731


def test_a_window_keeps_what_ran_on_the_gpu_and_no_annotation():
    kept = [Event("ncclDevKernel_SendRecv(args)"), Event("Memcpy DtoD (Device -> Device)")]
    others = [Event("cudaLaunchKernel", DeviceType.CPU), Event("nccl:all_to_all"), Event("step", annotation=True),
              Event("FullyShardedDataParallel._pre_forward"), Event("empty", length=0)]  # fmt: skip
    rows = kineto_window._activities([*others, *kept])
    assert rows == [(event.called, 7, 1000, 1500) for event in kept]


@pytest.mark.parametrize("rows", [[], [(0, "b", 7, 20, 30), (1, "a", 9, 10, 40)]])
def test_activities_are_written_and_read(tmp_path, rows):
    kineto_window.save(tmp_path / "kernels.npz", rows)
    kernels = Kernels.read(tmp_path / "kernels.npz")
    read = list(zip(kernels.session, (kernels.names[at] for at in kernels.name), kernels.stream, kernels.start,
                    kernels.end, strict=True))  # fmt: skip
    assert read == sorted(rows, key=lambda row: row[3])


def test_a_failed_work_does_not_keep_others_from_being_done(tmp_path, monkeypatch, capsys):
    class Window:
        rows = (("spin_kernel", 7, 1, 2),)
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_exception: None  # noqa: E731

    monkeypatch.setattr(kineto_window, "CudaWindow", Window)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    done = []
    sessions = kineto_matrix.Sessions(tmp_path / "kernels-rank0.npz")
    sessions.run(("first", lambda: 1 / 0), ("second", lambda: done.append("second")))
    sessions.run(("third", lambda: done.append("third")))
    assert done == ["second", "third"]
    assert "FAILED first: ZeroDivisionError" in capsys.readouterr().out
    assert Kernels.read(tmp_path / "kernels-rank0.npz").session.tolist() == [0, 1]
