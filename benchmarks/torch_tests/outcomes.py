"""What became of each test, and where two variants of a run differ."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

BARE, RECORDED = "bare", "recorded"
VARIANTS = BARE, RECORDED
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
UNFINISHED = "unfinished"  # it began and no end of it was seen: the process was ended or died


@dataclass
class Outcomes:
    """Of one test program under one variant. ``tests``: id to outcome; ``why``: id to the reason of those that did not
    pass; ``done``: whether the program came to its end; ``error``: why it could not be loaded, "" when it could."""

    tests: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    done: bool = False
    error: str = ""

    def ran(self) -> list[str]:
        """Ids of the tests that ran to their end, skipped ones not among them."""
        return [test for test, outcome in self.tests.items() if outcome in (PASSED, FAILED)]

    def count(self, outcome: str) -> int:
        return Counter(self.tests.values())[outcome]


def read_lines(text: str) -> Outcomes:
    """From the lines that worker.py wrote; the last one may be cut short. Of a test that ended twice (its class's
    tearDown failed, say) the worse outcome counts."""
    found = Outcomes()
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found.done |= bool(entry.get("done"))
        found.error = entry.get("program_error", found.error)
        if "test" not in entry:
            continue
        test = entry["test"]
        if "begin" in entry:
            found.tests.setdefault(test, UNFINISHED)
        elif found.tests.get(test) != FAILED:
            found.tests[test] = entry["outcome"]
            found.seconds[test] = entry.get("s", 0.0)
            if entry.get("why"):
                found.why[test] = entry["why"]
    return found


@dataclass(frozen=True)
class Difference:
    """``outcomes``: of the two variants. ``alone``: those of the repetitions of that test by itself, bare and recorded,
    empty where there were none."""

    test: str
    outcomes: tuple[str, str]
    alone: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def verdict(self) -> str:
        """What the repetitions say; "disturbed" is all that nothing speaks against."""
        bare, recorded = self.alone
        if not bare or not recorded:
            return "disturbed, not repeated"
        if len({self.outcomes[0], *bare}) > 1:
            return "unsteady without recording"
        if set(recorded) == set(bare):
            return "equal when repeated"
        return "disturbed"

    def disturbs(self) -> bool:
        return self.verdict().startswith("disturbed")


def differences(bare: Outcomes, recorded: Outcomes) -> list[Difference]:
    """Tests that began under both variants, and whose outcome is not the same."""
    shared = [test for test in bare.tests if test in recorded.tests]
    return [
        Difference(test, (bare.tests[test], recorded.tests[test]))
        for test in shared
        if bare.tests[test] != recorded.tests[test]
    ]


def not_compared(bare: Outcomes, recorded: Outcomes) -> list[str]:
    """Tests that only one variant came to, because the other's process ended before. Those that were skipped without
    recording are not run with it, and are not among them."""
    apart = bare.tests.keys() ^ recorded.tests.keys()
    return sorted(test for test in apart if bare.tests.get(test) != SKIPPED)


def short(test: str) -> str:
    """Class and method of an id."""
    return ".".join(test.split(".")[-2:])
