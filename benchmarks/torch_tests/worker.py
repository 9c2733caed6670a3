"""Runs one test program of torch in this process and writes a JSON line for each test as it begins and ends.

Torch's tests start processes of their own for the ranks, by multiprocessing's spawn, which runs this module again in
each of them. Under WANHOOK=1 that is where a test gets a scope around it: a recording begins with the first scope of a
process, and torch's tests open none. Nothing else is set, so what records is what WANHOOK=1 puts there.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import re
import sys
import time
import unittest
from pathlib import Path

SCOPE = "torch_test"
# Names that a later torch spelled otherwise: test programs of an older one import them.
_RENAMED = (
    ("common_distributed", "MultiProcContinousTest", "MultiProcContinuousTest"),
    ("common_fsdp", "test_compiled_fsdp", "compiled_fsdp_test"),
)


class LineResult(unittest.TestResult):
    """``write``: called with one dict for the begin and one for the end of each test. The last outcome that unittest
    reports of a test counts most: a test whose tearDown fails after it passed has failed."""

    def __init__(self, write):
        super().__init__()
        self._write = write
        self._began = 0.0
        self._outcome: tuple[str, str] | None = None

    def startTest(self, test):
        super().startTest(test)
        self._began, self._outcome = time.monotonic(), None
        self._write({"test": test.id(), "begin": True})

    def stopTest(self, test):
        super().stopTest(test)
        outcome, why = self._outcome or ("passed", "")
        self._write({"test": test.id(), "outcome": outcome, "why": why, "s": round(time.monotonic() - self._began, 2)})

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._fail(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self._fail(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._fail(test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._conclude(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self._conclude(test, "passed", "fails as expected")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._conclude(test, "failed", "passes against expectation")

    def _fail(self, test, err):
        self._conclude(test, "failed", " ".join(f"{err[0].__name__}: {err[1]}".split())[-600:])

    def _conclude(self, test, outcome: str, why: str) -> None:
        if isinstance(test, unittest.TestCase):
            self._outcome = outcome, why
        else:  # setUpClass or tearDownClass, which begin and end no test
            self._write({"test": test.id(), "outcome": outcome, "why": why, "s": 0.0})


def put_scopes_around_tests() -> None:
    """Each test of torch's runs in a scope from here on, in each process and thread that is a rank."""
    from torch.testing._internal import common_distributed

    import wanhook

    def scoped(original):
        @functools.wraps(original)
        def run_in_scope(self_or_class, test_name, *args, **kwargs):
            with wanhook.trace(SCOPE, test=test_name.rpartition(".")[2]):
                return original(self_or_class, test_name, *args, **kwargs)

        return run_in_scope

    processes, threads = common_distributed.MultiProcessTestCase, common_distributed.MultiThreadedTestCase
    processes.run_test = scoped(processes.run_test)
    threads.run_test_with_threaded_pg = scoped(threads.run_test_with_threaded_pg)
    continuous = getattr(common_distributed, "MultiProcContinuousTest", None)
    if continuous is not None:
        continuous._run_test_given_id = classmethod(scoped(continuous._run_test_given_id.__func__))


def _bear_old_names() -> None:
    for module, old, new in _RENAMED:
        holder = importlib.import_module(f"torch.testing._internal.{module}")
        if not hasattr(holder, old) and hasattr(holder, new):
            setattr(holder, old, getattr(holder, new))


def chosen_tests(suite: unittest.TestSuite, only: str, shard: tuple[int, int], leave_out: set[str]) -> list:
    """Every ``shard[1]``-th test of those that match, from the ``shard[0]``-th on, less those to leave out: what is
    left out moves no test to another shard."""
    matching = [test for test in _flat(suite) if re.search(only, test.id())]
    return [test for test in matching[shard[0] :: shard[1]] if test.id() not in leave_out]


def _flat(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from _flat(entry)
        else:
            yield entry


def _load(program: str) -> unittest.TestSuite:
    """``program``: a module's name, or the path of a file, which its ranks' processes import by its stem."""
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))
        program = Path(program).stem
    return unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(program))


def _write_line(path: Path, line: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="a module's name or the path of a test file")
    parser.add_argument("--lines", type=Path, required=True, help="file for the JSON lines")
    parser.add_argument("--only", default="", help="regular expression that ids must match")
    parser.add_argument("--shard", type=int, nargs=2, default=(0, 1), metavar=("I", "N"))
    parser.add_argument("--leave-out", type=Path, help="JSON list of ids not to run")
    chosen = parser.parse_args()
    sys.argv = sys.argv[:1]  # torch's tests read it too
    write = functools.partial(_write_line, chosen.lines)
    from torch.testing._internal import common_utils

    with contextlib.suppress(AttributeError):  # not there in every torch
        common_utils.parse_cmd_line_args()
    try:
        suite = _load(chosen.program)
    except Exception as error:
        write({"program_error": " ".join(f"{type(error).__name__}: {error}".split())})
        return 2
    leave_out = set(json.loads(chosen.leave_out.read_text())) if chosen.leave_out else set()
    tests = chosen_tests(suite, chosen.only, tuple(chosen.shard), leave_out)
    write({"tests": len(tests)})
    unittest.TestSuite(tests).run(LineResult(write))
    write({"done": True})
    return 0


if __name__ in ("__main__", "__mp_main__"):  # the latter: a rank's process
    _bear_old_names()
    if os.environ.get("WANHOOK") == "1":
        put_scopes_around_tests()
if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a test may have left threads or processes that an orderly exit would wait for
