"""One test program without and with recording, side by side."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .outcomes import BARE, FAILED, PASSED, RECORDED, SKIPPED, VARIANTS, Difference, Outcomes, differences, not_compared
from .programs import Program
from .recordings import Recorded

_REPETITIONS = 2
_MOST_REPEATED = 6  # differences of one program that are repeated; more are no flakiness


@dataclass
class Comparison:
    """Of ``program``. ``ended``: how the process of each variant ended; ``missing``: tests that only one of the two
    came to."""

    program: Program
    bare: Outcomes
    recorded: Outcomes
    traces: Recorded
    ended: tuple[str, str]
    differences: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def compared(self, outcome: str | None = None) -> list[str]:
        """Ids of the tests that ran to their end under both variants, skipped in neither; with the given outcome
        without recording, if one is given."""
        both = set(self.bare.ran()) & set(self.recorded.ran())
        return [test for test in self.bare.tests if test in both and outcome in (None, self.bare.tests[test])]

    def complaints(self) -> list[str]:
        """Why this comparison does not show that recording disturbs nothing; empty when it does show that."""
        found = [f"{item.test}: {item.verdict()} {item.outcomes}" for item in self.differences if item.disturbs()]
        found += [f"cannot be loaded: {error}" for error in {self.bare.error, self.recorded.error} - {""}]
        if self.bare.done and not self.recorded.done:
            found.append(f"came to its end without recording only (with it, ended {self.ended[1]})")
        if self.compared() and not self.traces.with_collectives:
            found.append("no collective was recorded in any test")
        found += [f"a recording cannot be read: {name}" for name in self.traces.unreadable]
        return found


def from_json(values: dict) -> Comparison:
    """What report.as_json() wrote."""
    return Comparison(
        program=Program(values["program"]["name"], tuple(values["program"]["shard"]), values["program"]["only"]),
        bare=Outcomes(**values["bare"]),
        recorded=Outcomes(**values["recorded"]),
        traces=Recorded(**values["traces"]),
        ended=tuple(values["ended"]),
        differences=[
            Difference(item["test"], tuple(item["outcomes"]), tuple(tuple(side) for side in item["alone"]))
            for item in values["differences"]
        ],
        missing=values["missing"],
    )


def compare(program: Program, run: Callable[..., dict]) -> Comparison:
    """``run(program, variant, leave_out=…, label=…)`` as in programs.py. What is skipped without recording is not tried
    with it: it would start its ranks for nothing."""
    bare = run(program, BARE)
    skipped = [test for test, outcome in bare["outcomes"].tests.items() if outcome == SKIPPED]
    recorded = run(program, RECORDED, leave_out=skipped)
    sides = bare["outcomes"], recorded["outcomes"]
    found = Comparison(program, *sides, recorded["recorded"], (bare["ended"], recorded["ended"]))
    found.missing = not_compared(*sides)
    for number, difference in enumerate(differences(*sides)):
        found.differences.append(_repeat(program, difference, run) if number < _MOST_REPEATED else difference)
    return found


def _repeat(program: Program, difference: Difference, run: Callable[..., dict]) -> Difference:
    """The test by itself, several times under each variant."""
    alone = replace(program, shard=(0, 1), only=f"^{re.escape(difference.test)}$")
    seen: dict[str, list[str]] = {variant: [] for variant in VARIANTS}
    for number in range(_REPETITIONS):
        for variant in VARIANTS:
            done = run(alone, variant, label=f"-{difference.test.rpartition('.')[2]}-{number}")
            seen[variant].append(done["outcomes"].tests.get(difference.test, "not run"))
    return replace(difference, alone=(tuple(seen[BARE]), tuple(seen[RECORDED])))


def summary(found: Comparison) -> list:
    """A row: program, tests run, passed, failed, skipped, differing, tests with a trace that has collectives, traces,
    collectives, allocator events, waits of FSDP."""
    traces = found.traces
    return [
        str(found.program), len(found.compared()), len(found.compared(PASSED)), len(found.compared(FAILED)),
        found.bare.count(SKIPPED), len(found.differences), len(traces.with_collectives), traces.traces,
        traces.collectives, traces.allocator_events, traces.waits,
    ]  # fmt: skip
