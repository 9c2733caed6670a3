"""Wait scopes of FSDP over NCCL, beside independent events: programs/waits.py has the models.

Each of the four cases has 18 waits a rank. Limits on single waits hold for nine of ten: a host that is interrupted
between two calls is late for real.
"""

import numpy as np
import pytest

from gpu.processes import run_together, start_ranks
from gpu.programs.waits import CASES, EXPOSED, FORWARDS, HIDDEN, UNITS
from gpu.recorded import assert_healthy, gpu_nanoseconds

pytestmark = pytest.mark.gpu(2)

MICROSECOND = 1_000
MILLISECOND = 1_000_000


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """(what the rank said, its trace), by rank."""
    import wanhook

    folder = tmp_path_factory.mktemp("waits")
    programs = start_ranks("waits", 2, folder / "store", folder / "recording")
    answers = [finished.answer for finished in run_together(programs, timeout=240)]
    run = wanhook.load(folder / "recording")
    return [(answer, run.rank(answer["rank"])) for answer in answers]


def waits_of(trace, case: str) -> np.ndarray:
    """Wait scopes of a case, by begin time."""
    from wanhook.tracefile.format import ScopeType

    inside = trace.scopes["path"] == trace.paths.index(f"{case}/fsdp wait")
    return trace.scopes[inside & (trace.scopes["type"] == ScopeType.WAIT)]


def behind_the_first(rows: np.ndarray) -> np.ndarray:
    """Rows of all units but the first of each forward, whose gather waits for the stream and cannot be hidden."""
    return np.delete(rows, slice(None, None, UNITS))


def of_kind(kind: str) -> list[str]:
    return [case for case in CASES if case.endswith(kind)]


@pytest.mark.parametrize("case", CASES)
def test_there_is_one_timed_wait_a_unit_and_forward(ranks, case):
    for answer, trace in ranks:
        assert_healthy(trace)
        waits = waits_of(trace, case)
        assert len(waits) == len(answer["gaps"][case]) == UNITS * FORWARDS
        assert (gpu_nanoseconds(waits) >= 0).all()
        assert len(set(waits["stream"].tolist())) == 1


@pytest.mark.parametrize("case", of_kind(EXPOSED))
def test_an_exposed_wait_is_the_gap_that_independent_events_see(ranks, case):
    for answer, trace in ranks:
        measured, gaps = gpu_nanoseconds(waits_of(trace, case)), np.array(answer["gaps"][case])
        print(f"{case} rank {answer['rank']}: waits {measured.tolist()}, gaps {gaps.round().tolist()} ns")
        assert gaps.sum() >= 5 * MILLISECOND, "nothing was exposed: the case is not what it should be"
        off = np.abs(measured - gaps)
        assert np.percentile(off - np.maximum(0.05 * gaps, 20 * MICROSECOND), 90) <= 0, f"off by {off.tolist()} ns"
        assert measured.sum() == pytest.approx(gaps.sum(), rel=0.05)


@pytest.mark.real_gpu
@pytest.mark.parametrize("case", of_kind(HIDDEN))
def test_the_wait_for_a_hidden_all_gather_is_short(ranks, case):
    for answer, trace in ranks:
        measured = behind_the_first(gpu_nanoseconds(waits_of(trace, case)))
        print(f"{case} rank {answer['rank']}: waits {measured.tolist()} ns, gaps {answer['gaps'][case]}")
        assert np.percentile(measured, 90) < 50 * MICROSECOND


@pytest.mark.real_gpu
@pytest.mark.parametrize("case", CASES)
def test_exposed_time_is_that_of_the_waits_and_belongs_to_the_all_gathers(ranks, case):
    from wanhook.analysis.exposed_table import exposure
    from wanhook.analysis.exposure import exposed_intervals

    for answer, trace in ranks:
        calls = trace.collectives
        inside = (calls["path"] == trace.paths.index(case)) & (calls["role"] == trace.strings.index("fsdp"))
        begin, end = exposed_intervals(trace)
        behind = behind_the_first if case.endswith(HIDDEN) else np.asarray
        exposed = int(behind((end - begin)[inside]).sum())
        waited = int(behind(gpu_nanoseconds(waits_of(trace, case))).sum())
        total = int(behind((calls["gpu_end"] - calls["gpu_begin"])[inside]).sum())
        print(f"{case} rank {answer['rank']}: {exposed} of {total} ns exposed, {waited} ns waited")
        assert inside.sum() == UNITS * FORWARDS
        # FSDP1 tells no class where the root has no parameters.
        model = "" if case.startswith("fsdp1") else "Sequential "
        named = [trace.strings[unit] for unit in calls["unit"][inside]]
        assert named == [f"{model}{number}" for number in range(UNITS)] * FORWARDS
        assert exposed <= min(total, waited)
        if case.endswith(EXPOSED):
            assert exposed >= 0.9 * waited
        else:
            assert exposed <= 0.05 * total
    (row,) = [row for row in exposure([trace for _, trace in ranks], None).rows if row.role == "fsdp"]
    assert (row.op, row.unknown, row.compute_stream) == ("all_gather", 0, 0)
