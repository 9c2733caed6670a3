"""The join of wanhook's collectives with Kineto's kernels, on made-up files of a run."""

import pytest

from benchmarks import kineto_matrix
from benchmarks.kineto_match import CALIBRATION, Case, analyse
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
        sessions = kineto_matrix.Sessions()
        sessions._rows = self.kernels[::-1]
        sessions.save(self.folder / "kernels-rank0.npz")


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


def test_a_lost_kernel_is_no_match(run):
    run.fill()
    del run.kernels[-3]
    run.save()
    found = analyse(run.folder)
    assert len(found["problems"]) == 1
    assert found["cases"] == []


def test_a_role_names_its_case():
    for case in CASES:
        assert Case.of(case.role) == case
    assert Case.of("qkv") is None
