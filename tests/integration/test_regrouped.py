"""Process groups that come and go: a new one at an old one's address is another group, and nothing keeps an old one."""

import pytest

import wanhook
from programs import run_program

ROUNDS = 40


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    program = run_program("regrouped", tmp_path_factory.mktemp("regrouped"), ROUNDS)
    assert program.returncode == 0, program.errors
    return program


def test_a_reused_address_is_told_apart(ended):
    lines = [line.split() for line in ended.output.splitlines() if not line.startswith("gloo")]
    assert len(lines) == ROUNDS
    assert any(reused == "True" for _, reused in lines), "no address came back: the test shows nothing"

    trace = wanhook.load(ended.directory / "run").traces[0]
    recorded = [trace.groups[int(call["group"])] for call in trace.collectives[:ROUNDS]]
    assert [group.size for group in recorded] == [int(size) for size, _ in lines]
    # In the second half all are alike in name, rank, size and backend.
    assert len({int(call["group"]) for call in trace.collectives[:ROUNDS]}) == ROUNDS
    assert trace.collectives["sequence"][:ROUNDS].tolist() == [0] * ROUNDS


def test_a_destroyed_group_is_freed(ended):
    """Its threads end: torch would abort if one of gloo's let a tensor go while the interpreter ends."""
    before, after = (int(line.split()[1]) for line in ended.output.splitlines() if line.startswith("gloo"))
    assert before > 0
    assert after == 0
