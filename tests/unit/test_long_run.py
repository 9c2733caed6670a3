"""What a long run's figures make of made-up brackets."""

import numpy as np
import pytest

from benchmarks.long_run import figures, text
from made_trace import TraceBuilder
from wanhook.tracefile.model import load

SECOND = 1_000_000_000
SCOPES = 200


@pytest.fixture
def trace(tmp_path):
    builder = TraceBuilder()
    for number in range(SCOPES):
        at = number * SECOND // 10
        builder.scope("tick", at, at + 50_000, gpu=(at + 5_000, at + 20_000))
    for name, at in (("begin", 0), ("end", 20 * SECOND)):
        builder.scope(name, at, at + 50_000, gpu=(at, at + 20_000))
    return load(builder.save(tmp_path / "0.wanhook")).traces[0]


def brackets(trace, drift: int) -> np.ndarray:
    """Around each begin: 10 us wide, and by `drift` ns too late at the end."""
    begins = trace.scopes[trace.scopes["name"] == trace.strings.index("tick")]["gpu_begin"]
    late = np.linspace(0, drift, SCOPES).astype(np.int64)
    return np.stack([begins - 5_000 + late, begins + 5_000 + late], axis=1)


def kineto(trace) -> dict[str, list[int]]:
    start = int(trace.header["start_realtime"])
    return {"begin": [start + 3_000], "end": [start + 20 * SECOND + 3_000]}


def test_a_steady_clock_passes(trace):
    found = figures(trace, brackets(trace, 0), kineto(trace))
    assert found["passed"]
    assert abs(found["end_less_begin_ns"]) <= 100
    assert all(part["inside"] == 1 for part in found["parts"])
    assert sum(part["scopes"] for part in found["parts"]) == SCOPES
    assert abs(found["kineto_end_less_begin_ns"]) <= 100
    assert text(found).endswith("pass")


def test_a_clock_that_drifts_away_fails(trace):
    found = figures(trace, brackets(trace, 20_000), kineto(trace))
    assert not found["passed"]
    assert found["end_less_begin_ns"] == pytest.approx(-18_000, rel=0.05)
    assert found["parts"][-1]["inside"] == 0
    assert text(found).endswith("FAIL")


def test_scopes_that_went_missing_are_no_result(trace):
    with pytest.raises(SystemExit, match="scopes in the trace"):
        figures(trace, brackets(trace, 0)[:-1], kineto(trace))
