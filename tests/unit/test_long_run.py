"""What a long run's figures make of made-up brackets."""

import numpy as np
import pytest

from benchmarks.long_run import by_brackets, by_medians, figures, text
from made_trace import TraceBuilder
from wanhook.tracefile.model import load

SECOND = 1_000_000_000
US = 1_000
SCOPES = 2_000
CALLS = 30  # of each window of Kineto's
END = 200 * SECOND


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    builder = TraceBuilder()
    for number in range(SCOPES):
        at = number * SECOND // 10
        builder.scope("tick", at, at + 50_000, gpu=(at + 5_000, at + 20_000))
    for name, at in (("begin", 0), ("end", END)):
        for each in range(CALLS):
            builder.scope(name, at + each * US, at + 50_000, gpu=(at + each * US, at + 20_000 + each * US))
    return load(builder.save(tmp_path_factory.mktemp("long") / "0.wanhook")).traces[0]


def brackets(trace, drift: int, load: float = 0) -> np.ndarray:
    """Around each begin, which moves against them by `drift` ns over the run. Its distance from the middle falls with
    the width, as launches under load make it: 60 to 90 us, and the last tenth wider by `load` of that."""
    begins = trace.scopes[trace.scopes["name"] == trace.strings.index("tick")]["gpu_begin"]
    random = np.random.default_rng(3)
    width = random.uniform(60, 90, SCOPES) * US * np.where(np.arange(SCOPES) >= SCOPES * 9 // 10, 1 + load, 1)
    before = 0.25 * width + random.normal(0, US, SCOPES) + np.linspace(0, drift, SCOPES)
    return np.stack([begins - before, begins - before + width], axis=1).astype(np.int64)


def kineto(trace, drift: int = 0) -> dict[str, list[int]]:
    start = int(trace.header["start_realtime"])
    starts = [start + 3 * US + each * US for each in range(CALLS)]
    return {"begin": starts, "end": [at + END - drift for at in starts]}


def test_a_steady_clock_passes(trace):
    found = figures(trace, brackets(trace, 0), kineto(trace))
    assert found["passed"]
    for name in ("by_brackets", "by_kineto"):
        assert abs(found[name]["ns"]) <= 500
        assert found[name]["low"] <= 50
        assert found[name]["high"] >= -50
    assert all(part["inside"] == 1 for part in found["parts"])
    assert sum(part["scopes"] for part in found["parts"]) == SCOPES
    assert text(found).endswith("pass")


def test_a_clock_that_drifts_by_10_us_fails(trace):
    found = figures(trace, brackets(trace, 10 * US), kineto(trace, 10 * US))
    assert not found["passed"]
    assert found["by_brackets"]["ns"] == pytest.approx(9 * US, abs=700)  # from the middle of a tenth to that of another
    assert found["by_kineto"]["ns"] == pytest.approx(10 * US, abs=100)
    assert text(found).endswith("FAIL")


def test_load_that_widens_the_brackets_is_no_drift(trace):
    found = figures(trace, brackets(trace, 0, load=0.4), kineto(trace))
    tight = [part["off_ns"] for part in found["parts"]]
    assert tight[-1] - tight[0] < -5 * US  # what the tightest fifths show
    assert abs(found["by_brackets"]["ns"]) <= US
    assert found["passed"]


def test_a_drift_under_load_is_found(trace):
    found = figures(trace, brackets(trace, 10 * US, load=0.3), kineto(trace))
    assert found["by_brackets"]["ns"] == pytest.approx(9 * US, abs=US)
    assert not found["passed"]


@pytest.mark.parametrize("drifts", [(10 * US, 0), (0, 10 * US)])
def test_one_reference_does_not_outvote_the_other(trace, drifts):
    assert not figures(trace, brackets(trace, drifts[0]), kineto(trace, drifts[1]))["passed"]


def test_what_cannot_be_compared_does_not_pass(trace):
    found = figures(trace, brackets(trace, 0, load=2), kineto(trace))  # no bracket of the end is as tight as another
    assert found["by_brackets"]["compared"] == 0
    assert not found["passed"]
    assert "brackets of equal width: nothing to compare" in text(found)
    found = figures(trace, brackets(trace, 0), {"begin": [], "end": []})
    assert not found["passed"]
    assert "Kineto's kernels: nothing to compare" in text(found)


def test_the_interval_holds_the_truth_and_grows_with_errors_that_last():
    random = np.random.default_rng(1)

    def end(wander: float) -> np.ndarray:
        slow = np.repeat(random.normal(0, wander, 20), 100)
        return np.stack([random.uniform(50, 60, 2000) * US, random.normal(0, US, 2000) + slow], axis=1)

    still, wandering = (by_brackets(end(size), end(size)) for size in (0, 2 * US))
    assert still.high - still.low < 400 < 4 * 400 < wandering.high - wandering.low
    covered = sum(each.low <= 0 <= each.high for each in (by_medians(end(0)[:, 1], end(0)[:, 1]) for _ in range(40)))
    assert covered >= 33


def test_scopes_that_went_missing_are_no_result(trace):
    with pytest.raises(SystemExit, match="scopes in the trace"):
        figures(trace, brackets(trace, 0)[:-1], kineto(trace))
