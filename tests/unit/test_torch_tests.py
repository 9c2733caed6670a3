"""The comparison of torch's own tests without and with recording: reading outcomes, telling disturbance from flakiness,
and refusing a run in which nothing was recorded."""

import json
import unittest

import pytest

from benchmarks import machine
from benchmarks.torch_tests import comparison, report
from benchmarks.torch_tests.__main__ import Ledger
from benchmarks.torch_tests.outcomes import (
    BARE,
    FAILED,
    PASSED,
    SKIPPED,
    UNFINISHED,
    Difference,
    Outcomes,
    differences,
    not_compared,
    read_lines,
)
from benchmarks.torch_tests.programs import Program, read_list
from benchmarks.torch_tests.recordings import Recorded
from benchmarks.torch_tests.worker import LineResult, chosen_tests


def lines(*entries):
    return "\n".join(json.dumps(entry) for entry in entries)


def test_read_lines_keeps_the_outcome_of_each_test():
    found = read_lines(
        lines(
            {"tests": 3},
            {"test": "m.T.a", "begin": True},
            {"test": "m.T.a", "outcome": "passed", "why": "", "s": 1.5},
            {"test": "m.T.b", "begin": True},
            {"test": "m.T.b", "outcome": "skipped", "why": "no GPU", "s": 0.0},
            {"done": True},
        )
    )
    assert found.tests == {"m.T.a": PASSED, "m.T.b": SKIPPED}
    assert found.why == {"m.T.b": "no GPU"}
    assert found.seconds["m.T.a"] == 1.5
    assert found.done
    assert found.ran() == ["m.T.a"]


def test_a_test_whose_end_is_missing_is_unfinished_even_when_the_last_line_is_cut():
    text = lines({"test": "m.T.a", "begin": True}) + '\n{"test": "m.T.a", "outc'
    found = read_lines(text)
    assert found.tests == {"m.T.a": UNFINISHED}
    assert not found.done
    assert found.ran() == []


def test_a_failure_is_not_covered_by_a_later_outcome_of_the_same_test():
    entry = {"test": "m.T.a", "s": 0.0}
    assert read_lines(lines({**entry, "outcome": "failed"}, {**entry, "outcome": "passed"})).tests["m.T.a"] == FAILED
    assert read_lines(lines({**entry, "outcome": "passed"}, {**entry, "outcome": "failed"})).tests["m.T.a"] == FAILED


def test_a_program_that_cannot_be_loaded_says_why():
    assert read_lines(lines({"program_error": "ImportError: no such name"})).error == "ImportError: no such name"


def test_only_tests_that_both_variants_began_can_differ():
    bare = Outcomes({"a": PASSED, "b": PASSED, "c": SKIPPED, "d": PASSED})
    recorded = Outcomes({"a": PASSED, "b": UNFINISHED})
    assert differences(bare, recorded) == [Difference("b", (PASSED, UNFINISHED))]
    assert not_compared(bare, recorded) == ["d"]
    assert not_compared(recorded, bare) == ["c", "d"]


@pytest.mark.parametrize(
    ("alone", "verdict", "disturbs"),
    [
        (((), ()), "disturbed, not repeated", True),
        (((PASSED, PASSED), (FAILED, FAILED)), "disturbed", True),
        (((PASSED, PASSED), (FAILED, PASSED)), "disturbed", True),
        (((PASSED, PASSED), (PASSED, PASSED)), "equal when repeated", False),
        (((PASSED, FAILED), (FAILED, FAILED)), "unsteady without recording", False),
        (((FAILED, FAILED), (FAILED, FAILED)), "unsteady without recording", False),
    ],
)
def test_repetitions_tell_flakiness_from_disturbance(alone, verdict, disturbs):
    difference = Difference("m.T.a", (PASSED, FAILED), alone)
    assert (difference.verdict(), difference.disturbs()) == (verdict, disturbs)


class Runs:
    """Stands for programs.run: ``outcomes[variant]`` are answered one after the other, the last one for ever."""

    def __init__(self, traces, **outcomes):
        self.traces, self.outcomes, self.asked = traces, outcomes, []

    def __call__(self, program, variant, leave_out=(), label=""):
        self.asked.append((variant, program.only, tuple(leave_out)))
        answers = self.outcomes[variant]
        tests = answers.pop(0) if len(answers) > 1 else answers[0]
        found = {"outcomes": Outcomes(dict(tests), done=True), "ended": "itself"}
        return found if variant == BARE else {**found, "recorded": self.traces}


TRACED = Recorded(traces=2, collectives=7, allocator_events=9, tests=["a"], with_collectives=["a"])


def test_what_is_skipped_without_recording_is_not_run_with_it():
    run = Runs(TRACED, bare=[{"m.T.a": PASSED, "m.T.b": SKIPPED}], recorded=[{"m.T.a": PASSED}])
    found = comparison.compare(Program("p.py"), run)
    assert run.asked == [("bare", "", ()), ("recorded", "", ("m.T.b",))]
    assert (found.compared(), found.differences, found.missing, found.complaints()) == (["m.T.a"], [], [], [])


def test_a_difference_is_repeated_by_itself_twice_a_variant():
    run = Runs(TRACED, bare=[{"m.T.a": PASSED}], recorded=[{"m.T.a": FAILED}])
    found = comparison.compare(Program("p.py", (1, 4)), run)
    assert run.asked[2:] == [("bare", r"^m\.T\.a$", ()), ("recorded", r"^m\.T\.a$", ())] * 2
    assert found.differences == [Difference("m.T.a", (PASSED, FAILED), ((PASSED,) * 2, (FAILED,) * 2))]
    assert found.complaints() == ["m.T.a: disturbed ('passed', 'failed')"]


def test_a_difference_that_is_gone_when_repeated_is_no_complaint():
    run = Runs(TRACED, bare=[{"m.T.a": PASSED}], recorded=[{"m.T.a": FAILED}, {"m.T.a": PASSED}])
    found = comparison.compare(Program("p.py"), run)
    assert len(found.differences) == 1
    assert found.complaints() == []


def test_a_program_that_ends_early_only_when_recorded_is_a_complaint():
    run = Runs(TRACED, bare=[{"m.T.a": PASSED, "m.T.b": PASSED}], recorded=[{"m.T.a": PASSED}])
    found = comparison.compare(Program("p.py"), lambda *asked, **how: cut_short(asked, run(*asked, **how)))
    assert found.missing == ["m.T.b"]
    assert found.complaints() == ["came to its end without recording only (with it, ended itself)"]


def cut_short(asked, answer):
    answer["outcomes"].done = asked[1] == BARE
    return answer


@pytest.mark.parametrize("traces", [Recorded(), Recorded(traces=2, allocator_events=9, tests=["a"])])
def test_tests_without_a_recorded_collective_show_nothing(traces):
    run = Runs(traces, bare=[{"m.T.a": PASSED}], recorded=[{"m.T.a": PASSED}])
    assert comparison.compare(Program("p.py"), run).complaints() == ["no collective was recorded in any test"]


def test_a_list_of_programs_names_parts_and_tests():
    text = "# comment\n\nwheel:gloo 2\na/b.py 1 DDP|Comm Test\n"
    assert read_list(text) == [
        Program("wheel:gloo", (0, 2)),
        Program("wheel:gloo", (1, 2)),
        Program("a/b.py", (0, 1), "DDP|Comm Test"),
    ]
    for wrong in ("a.py", "a.py none", "a.py 0"):
        with pytest.raises(ValueError, match="is not: PROGRAM PARTS"):
            read_list(wrong)


class Made(unittest.TestCase):
    """What a program of torch may hold; run by the tests below, not collected by pytest."""

    __test__ = False

    def test_passes(self):
        pass

    def test_fails(self):
        self.fail("two\nlines")

    def test_skips(self):
        self.skipTest("not here")

    def test_fails_in_a_subtest(self):
        with self.subTest(case=1):
            self.fail("inner")

    @unittest.expectedFailure
    def test_passes_against_expectation(self):
        pass

    def test_fails_when_taken_down(self):
        self.addCleanup(lambda: 1 / 0)


def made_suite():
    return unittest.defaultTestLoader.loadTestsFromTestCase(Made)


def test_the_worker_writes_what_unittest_reports():
    written = []
    made_suite().run(LineResult(written.append))
    found = read_lines(lines(*written))
    short = {test.rpartition(".")[2]: outcome for test, outcome in found.tests.items()}
    assert short == {
        "test_passes": PASSED,
        "test_fails": FAILED,
        "test_skips": SKIPPED,
        "test_fails_in_a_subtest": FAILED,
        "test_passes_against_expectation": FAILED,
        "test_fails_when_taken_down": FAILED,
    }
    assert [why for test, why in found.why.items() if test.endswith("test_fails")] == ["AssertionError: two lines"]


def test_parts_hold_every_test_once_and_what_is_left_out_moves_none():
    def names(part, leave_out=frozenset()):
        return [test.id() for test in chosen_tests(made_suite(), "Made", (part, 2), leave_out)]

    everything = [test.id() for test in chosen_tests(made_suite(), "", (0, 1), set())]
    assert sorted(names(0) + names(1)) == sorted(everything)
    assert len(everything) == 6
    assert names(0, {names(0)[0]}) == names(0)[1:]
    assert names(1, {names(0)[0]}) == names(1)
    assert chosen_tests(made_suite(), "no such test", (0, 1), set()) == []


def test_the_report_counts_and_lists_differences():
    run = Runs(
        TRACED,
        bare=[{"m.T.a": PASSED, "m.T.b": FAILED, "m.T.c": SKIPPED}],
        recorded=[{"m.T.a": FAILED, "m.T.b": FAILED}],
    )
    found = comparison.compare(Program("p.py"), run)
    text = report.render([{"machine": {"torch": "2.11.0", "gpu": None}, "command": "the command"}], [found], ["q.py"])
    assert "`the command`: torch 2.11.0." in text
    assert "| p.py | 2 | 1 | 1 | 1 | 1 | 1 | 2 | 7 | 9 | 0 |" in text
    assert "| p.py | T.a | passed | failed | passed passed | failed failed | disturbed |" in text
    assert "- q.py: not run" in text
    values = json.loads(json.dumps(report.as_json(found)))
    assert values["verdicts"] == {"m.T.a": "disturbed"}
    assert comparison.from_json(values) == found


def test_a_reason_is_shown_without_advice_and_without_folders():
    why = (
        'File "/usr/lib/python3/dist-packages/torch/testing/_comparison.py", line 1, in close '
        "AssertionError: a | b To execute this test, run the following from the base repo dir: python x/test_y.py"
    )
    assert report._shown(why) == 'File "testing/_comparison.py", line 1, in close AssertionError: a / b'
    assert report._shown("no path at all") == "no path at all"


def test_results_are_on_disk_after_each_program_and_later_runs_add_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda: {"cores": 2})
    first, second = Program("p.py"), Program("q.py", (0, 1), "DDP")
    run = Runs(TRACED, bare=[{"m.T.a": PASSED}], recorded=[{"m.T.a": PASSED}])
    ledger = Ledger(tmp_path / "one", [first, second], [])
    ledger.add(comparison.compare(second, run))
    assert "- p.py: not run" in (tmp_path / "one" / "results.md").read_text()
    later = Ledger(tmp_path / "two", [first, second], [tmp_path / "one" / "results.json"])
    assert later.waiting == [first]
    later.add(comparison.compare(first, run))
    assert [found.program for found in later.comparisons] == [first, second]
    assert "| all | 2 | 2 | 0 |" in (tmp_path / "two" / "results.md").read_text()
    assert Ledger(tmp_path / "three", [first], [tmp_path / "two" / "results.json"]).waiting == []
