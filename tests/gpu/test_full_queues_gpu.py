"""A stream's queue is full, and a scope waits for room in it: Python goes on, and what it does meanwhile is right."""

import pytest

from gpu.processes import Program, run_together
from gpu.programs import host_functions
from gpu.recorded import gpu_nanoseconds, only_trace, scopes_named

pytestmark = pytest.mark.gpu

MILLISECOND = 1_000_000


def answer_of(name: str, *arguments) -> dict:
    (finished,) = run_together([Program(name, *arguments)], timeout=60)
    return finished.answer


@pytest.mark.parametrize("how", ["scopes", "waits", "native calls"])
def test_what_makes_room_may_be_python(tmp_path, how):
    assert answer_of("host_functions", how, tmp_path) == {"queue_was_full": True, "last_error": 0}
    assert len(gpu_nanoseconds(scopes_named(only_trace(tmp_path), "filled"))) == host_functions.COUNT


def test_a_scope_that_two_threads_leave_ends_once(tmp_path):
    assert answer_of("full_queues", "left twice", tmp_path) == {"outstanding": 0, "last_error": 0}
    trace = only_trace(tmp_path / "1")
    assert (trace.health.state, trace.health.damage) == ("stopped", [])
    assert [len(gpu_nanoseconds(scopes_named(trace, name))) for name in ("outer", "left", "inner")] == [1, 1, 1]


def test_a_scope_that_is_ending_when_the_recording_stops_is_kept(tmp_path):
    assert answer_of("full_queues", "stopped", tmp_path) == {"last_error": 0}
    trace = only_trace(tmp_path / "1")
    assert (trace.health.state, trace.health.damage, trace.health.unresolved) == ("stopped", [], 0)
    assert gpu_nanoseconds(scopes_named(trace, "late"))[0] > 1000 * MILLISECOND


def test_a_muted_step_that_ends_late_does_not_open_the_next_recordings_gate(tmp_path):
    answer = answer_of("full_queues", "muted", tmp_path)
    assert answer == {"muted in the step, behind it, recording": [True, False, True], "last_error": 0}
    for number in ("1", "2"):
        assert only_trace(tmp_path / number).health.damage == []
