"""FSDP1 and FSDP2 on two gloo processes: programs/fsdp.py has the cases. And the wrappers themselves."""

import sys
from collections import Counter
from types import SimpleNamespace

import pytest

import wanhook
from programs import run_program, run_two_at_a_time
from wanhook import attach
from wanhook.integrations import fsdp, fsdp_units
from wanhook.report.build import build
from wanhook.tracefile.format import ScopeLevel, ScopeType

# Three blocks and the root. A model is called twice, or forward and backward: the root stays unsharded in between, so
# it is gathered once; FSDP1 makes the compute stream wait for it all the same, FSDP2 does not.
UNITS, GATHERS = 4, 7
FSDP1, FSDP2 = (2 * UNITS, GATHERS), (GATHERS, GATHERS)
EXPECTED = {  # case: waits, all_gathers
    "fsdp1 no_grad": FSDP1,
    "fsdp1 inference_mode": FSDP1,
    "fsdp1 backward": FSDP1,
    "fsdp1 fails": (2, 2),
    "fsdp1 compiled": FSDP1,
    "fsdp1 prefetch": FSDP1,
    "fsdp1 original": FSDP1,
    "fsdp2 no_grad": FSDP2,
    "fsdp2 inference_mode": FSDP2,
    "fsdp2 backward": FSDP2,
    "fsdp2 fails": (2, 2),
    "fsdp2 compiled": FSDP2,
    "fsdp2 kept": (UNITS, UNITS),
}
SCATTERING = ("fsdp1 backward", "fsdp1 original", "fsdp2 backward")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Both programs; when they have ended, their traces."""
    directory = tmp_path_factory.mktemp("fsdp")
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "WANHOOK_OUT": "run"}

    def run(rank):
        return run_program("fsdp", directory, directory / "store", RANK=rank, LOCAL_RANK=rank, **variables)

    programs = run_two_at_a_time(run, ["0", "1"])
    for program in programs.values():
        assert program.returncode == 0, program.errors
    return SimpleNamespace(programs=programs, run=wanhook.load(directory / "run"))


def waits_of(trace):
    return trace.scopes[trace.scopes["type"] == ScopeType.WAIT]


@pytest.mark.parametrize("rank", [0, 1])
def test_there_is_one_wait_a_unit_and_forward(ranks, rank):
    trace = ranks.run.rank(rank)
    waits = waits_of(trace)
    counts = Counter(trace.paths[path] for path in waits["path"])
    assert counts == {f"{case}/{fsdp.WAIT}": count for case, (count, _) in EXPECTED.items()}
    assert (waits["level"] == ScopeLevel.OP).all()
    assert not waits["open"].any()


@pytest.mark.parametrize("rank", [0, 1])
def test_collectives_of_fsdp_carry_its_role_and_stay_in_the_scope_around_the_wait(ranks, rank):
    trace = ranks.run.rank(rank)
    calls = trace.collectives
    assert {trace.strings[role] for role in calls["role"]} == {fsdp.ROLE}
    found = Counter((trace.paths[call["path"]], "allgather" in trace.strings[call["op"]]) for call in calls)
    scattered = {(case, False): UNITS for case in SCATTERING}
    assert found == {(case, True): count for case, (_, count) in EXPECTED.items()} | scattered


@pytest.mark.parametrize("rank", [0, 1])
def test_on_the_host_clock_each_all_gather_lies_in_the_wait_for_it(ranks, rank):
    """Gloo works while the host waits. A prefetched all_gather is issued when the wait for the unit before it is over:
    by FSDP1 in its second forward, where it was asked for, and by both in the backward."""
    trace = ranks.run.rank(rank)
    waits, calls = waits_of(trace), trace.collectives
    gathers = [call for call in calls if "allgather" in trace.strings[call["op"]]]
    outside = Counter()
    for call in gathers:
        inside = (waits["begin"] <= call["begin"]) & (call["returned"] <= waits["end"])
        outside[trace.paths[call["path"]]] += not inside.any()
    assert +outside == Counter(dict.fromkeys(("fsdp1 prefetch", *SCATTERING), UNITS - 1))


FORWARD = ["Stack", "Stack blocks.0", "Stack blocks.1", "Stack blocks.2"]
AGAIN = FORWARD[1:]


def units_of(trace, case, op):
    """Units of the calls whose op has this in its name, in the order in which they were issued."""
    calls = trace.collectives
    chosen = [call for call in calls if trace.paths[call["path"]] == case and op in trace.strings[call["op"]]]
    return [trace.strings[call["unit"]] for call in chosen]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", EXPECTED)
def test_an_all_gather_names_the_unit_that_it_is_for(ranks, rank, case):
    """Also one that is issued while the unit before it runs. A backward goes from the last unit to the first."""
    second = [] if case == "fsdp2 kept" else AGAIN[::-1] if case in SCATTERING else AGAIN
    expected = FORWARD[:2] if case.endswith("fails") else FORWARD + second
    assert units_of(ranks.run.rank(rank), case, "allgather") == expected


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", SCATTERING)
def test_a_reduce_scatter_names_the_unit_that_it_is_for(ranks, rank, case):
    units = units_of(ranks.run.rank(rank), case, "reduce_scatter")
    assert sorted(units) == FORWARD
    assert [unit for unit in units if unit != "Stack"] == AGAIN[::-1]


def test_pandas_has_the_units_as_text(ranks):
    pytest.importorskip("pandas")
    frame = ranks.run.to_pandas()["collectives"]
    assert set(frame["unit"]) == set(FORWARD)


def test_the_report_splits_exposed_all_gathers_by_unit(ranks):
    rows = build(ranks.run).exposure.rows
    gathers = [row for row in rows if row.op == "all_gather"]
    assert {unit.unit for row in gathers for unit in row.units} == set(FORWARD)
    for row in gathers:
        assert sum(unit.timed for unit in row.units) == row.timed
        assert sum(unit.exposed_ns for unit in row.units) == row.exposed_ns


@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_changes_for_the_program(ranks, rank):
    program = ranks.programs[str(rank)]
    lines = program.output.splitlines()
    assert {line for line in lines if line.endswith(("equal", "differs"))} == {f"{case} equal" for case in EXPECTED}
    assert program.own_lines == []
    for version in ("fsdp1", "fsdp2"):
        _, bare, wrapped = [line for line in lines if line.startswith(f"frames {version}")]
        assert wrapped == bare, "torch.compile met other frames with the wrappers"


# The wrappers in this process ----------------------------------------------------------------------------------------


def held() -> dict[str, object]:
    """What stands at each point, in every module of FSDP that holds a copy of its name."""
    found = {}
    for point in fsdp._POINTS:
        if point.owner:
            found[str(point)] = vars(getattr(sys.modules[point.module], point.owner))[point.name]
            continue
        for name, module in sys.modules.items():
            if name.startswith("torch.distributed.fsdp") and point.name in vars(module):
                found[f"{name}.{point.name}"] = vars(module)[point.name]
    return found


@pytest.fixture
def detached():
    """FSDP is imported and has no wrappers; afterwards it has those that it had before."""
    import torch.distributed.fsdp  # noqa: F401

    fsdp.uninstall()
    notes = attach.notes()
    yield
    fsdp.uninstall()
    attach._notes[:] = notes
    fsdp.install()


def test_attach_detach_attach(detached):
    before = held()
    assert "torch.distributed.fsdp.fully_sharded_data_parallel._pre_forward_unshard" in before
    for _ in range(2):
        fsdp.install()
        fsdp.install()  # a second time does nothing
        wrapped = held()
        assert wrapped.keys() == before.keys()
        assert all(wrapped[name].__wrapped__ is before[name] for name in before)
        fsdp.uninstall()
        assert held() == before
    assert not fsdp._wrapped


def test_copies_of_a_wrapper_are_put_back_too(detached, monkeypatch):
    before = held()
    fsdp.install()
    package = sys.modules["torch.distributed.fsdp"]
    monkeypatch.setattr(package, "_unshard", sys.modules[fsdp._FSDP1]._unshard, raising=False)
    fsdp.uninstall()
    assert package._unshard is before[f"{fsdp._FSDP1}._unshard"]


def test_a_point_that_is_missing_costs_one_note_and_itself(detached, monkeypatch):
    missing = fsdp._Point(fsdp._FSDP1, None, "_of_another_version", fsdp._ending)
    no_class = fsdp._Point(fsdp._GROUP, "ClassOfAnotherVersion", "unshard", fsdp._ending)
    others = fsdp._POINTS
    monkeypatch.setattr(fsdp, "_POINTS", (missing, no_class, *others))
    known = len(attach.notes())
    fsdp.install()
    first, second = attach.notes()[known:]
    assert str(missing) in first
    assert str(no_class) in second
    assert [point for point, _, _ in fsdp._wrapped] == sorted(others, key=lambda point: _order(point.module))
    fsdp.uninstall()


def _order(module: str) -> int:
    return list(dict.fromkeys(point.module for point in fsdp._POINTS)).index(module)


def test_missing_names_cost_one_note(detached):
    """Another torch, whose groups have no such attributes."""
    known = len(attach.notes())
    group = SimpleNamespace()
    assert [fsdp_units.of_group((group,)) for _ in range(3)] == [""] * 3
    (note,) = attach.notes()[known:]
    assert note.startswith("the names of FSDP's units are missing (AttributeError")
    named = SimpleNamespace(_module_fqn=None)
    assert fsdp_units.of_group((named,)) == ""
    assert len(attach.notes()) == known + 1


def test_a_unit_without_parameters_or_before_its_first_forward_has_no_name(detached):
    class Flat:
        _fqns, _params = ("weight",), None

    class Handle:
        flat_param = Flat

    state = SimpleNamespace(_exec_order_data=SimpleNamespace(param_to_fqn={}, all_handles=[]))
    known = len(attach.notes())
    assert fsdp_units.of_handle((state,)) == ""
    assert fsdp_units.of_handle((state, None)) == ""
    handle = Handle()
    assert fsdp_units.of_handle((state, handle)) == ""
    assert not fsdp_units.known
    state._exec_order_data.param_to_fqn[Handle.flat_param] = ["blocks.3.weight"]  # no unit is the root's
    assert fsdp_units.of_handle((state, handle)) == "blocks.3"
    state._exec_order_data.param_to_fqn.clear()
    assert fsdp_units.of_handle((state, handle)) == "blocks.3", "it was looked up again"
    del handle
    assert not fsdp_units.known
    assert len(attach.notes()) == known


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("blocks.3", "blocks.3"),
        ("", ""),
        ("_orig_mod", ""),
        ("_orig_mod.blocks.3._checkpoint_wrapped_module", "blocks.3"),
        ("my_orig_model.x", "my_orig_model.x"),
    ],
)
def test_names_leave_wrappers_out(name, clean):
    assert fsdp_units._clean(name) == clean


@pytest.mark.parametrize(("chosen", "wrapped"), [("", True), ("fsdp", True), ("wan", False), ("none", False)])
def test_it_can_be_left_out(tmp_path, chosen, wrapped):
    ended = run_program("chosen_integrations", tmp_path, WANHOOK_INTEGRATIONS=chosen)
    assert ended.returncode == 0, ended.errors
    # Coalesced groups are the recorder's own, whatever is chosen.
    assert ended.output.split() == ["wrapped" if wrapped else "own", "wrapped"]
    assert ended.own_lines == []
