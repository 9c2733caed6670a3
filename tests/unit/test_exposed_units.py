"""Exposed communication by unit, from made-up times, and its lines in the report."""

from made_trace import TraceBuilder
from wanhook.analysis.exposed_table import exposure
from wanhook.report.build import build
from wanhook.report.terminal import render
from wanhook.tracefile.model import load

US = 1_000
COMPUTE, SIDE = 7, 9
ROLE = {"role": "fsdp", "stream": SIDE}


def load_one(directory, builder):
    return load(builder.save(directory / "rank00000-1-0.wanhook")).traces[0]


def step_builder():
    """Two steps of 1 ms, the first of which is left out of the figures of a step."""
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    for begin in (0, 1000 * US):
        builder.scope("step", begin, begin + 1000 * US, gpu=(begin, begin + 1000 * US))
    return builder


def wait(builder, begin, end):
    builder.scope("fsdp wait", begin, end, gpu=(begin, end), level="op", type="wait")


def units_exposure():
    """In each step blocks.0 is exposed for 60 us and blocks.1 for 20; before the steps the root for 500. One call comes
    from before its unit had a name, and two of blocks.1 have no time."""
    builder = step_builder()
    builder.collective("_allgather_base_", 0, returned=1, gpu=(3000 * US, 3600 * US), unit="Model", **ROLE)
    wait(builder, 3100 * US, 3600 * US)
    builder.collective("_allgather_base_", 0, returned=1, gpu=(4000 * US, 4100 * US), **ROLE)
    for step in (0, 1000 * US):
        for at, unit, exposed in ((100, "Model blocks.0", 60), (300, "Model blocks.1", 20)):
            begin, end = step + at * US, step + (at + 100) * US
            builder.collective("_allgather_base_", begin, returned=begin + 1, gpu=(begin, end), unit=unit, **ROLE)
            wait(builder, end - exposed * US, end)
        builder.collective("_allgather_base_", step, returned=step, unit="Model blocks.1", **ROLE)
    return builder


def test_units_by_what_they_cost_a_step_then_in_all(tmp_path):
    ((row,), (other,)) = (exposure([load_one(tmp_path, units_exposure())], step).rows for step in ("step", None))
    assert [(unit.unit, unit.timed, unit.exposed_ns, unit.step_exposed_ns) for unit in row.units] == [
        ("Model blocks.0", 2, 120 * US, 60 * US),
        ("Model blocks.1", 2, 40 * US, 20 * US),
        ("Model", 1, 500 * US, 0),
    ]
    first = row.units[0]
    assert (first.total_ns, first.share, first.step_total_ns) == (200 * US, 0.6, 100 * US)
    assert (first.calls_by_rank, row.units[1].calls_by_rank) == ({0: 2}, {0: 4})
    assert [(share.rank, share.count, share.total_ns) for share in first.exposed_ranks] == [(0, 2, 120 * US)]
    assert row.timed == sum(unit.timed for unit in row.units) + 1
    assert [unit.unit for unit in other.units] == ["Model", "Model blocks.0", "Model blocks.1"]
    assert {unit.step_exposed_ns for unit in other.units} == {None}


def test_a_unit_is_one_over_the_ranks(tmp_path):
    """Each file numbers its names by itself."""
    for rank, names in enumerate((["Model", "Model blocks.0"], ["Model blocks.0", "Model"])):
        builder = step_builder()
        builder.meta({"rank": {"rank": rank, "world_size": 2}})
        for at, name in enumerate(names):
            begin, end = (at * 100 + 100) * US, (at * 100 + 150 + 10 * rank) * US
            builder.collective("_allgather_base_", begin, returned=begin, gpu=(begin, end), unit=name, **ROLE)
            wait(builder, begin, end)
        builder.save(tmp_path / f"{rank}.wanhook")
    (row,) = exposure(load(tmp_path).traces, None).rows
    assert {unit.unit: [rank.total_ns for rank in unit.exposed_ranks] for unit in row.units} == {
        "Model": [50 * US, 60 * US],
        "Model blocks.0": [50 * US, 60 * US],
    }


def test_units_whose_exposure_is_not_known(tmp_path):
    builder = TraceBuilder()
    builder.collective("allgather_", 0, returned=1, gpu=(1 * US, 2 * US), stream=SIDE, role="mine", unit="Model")
    builder.scope("stage", 0, 3 * US, gpu=(0, 3 * US), stream=COMPUTE)
    (row,) = exposure([load_one(tmp_path, builder)], None).rows
    assert [(unit.unit, unit.total_ns, unit.exposed_ns, unit.exposed_ranks) for unit in row.units] == [
        ("Model", US, None, []),
    ]


# In the report ------------------------------------------------------------------------------------------------------


def units_report(directory, units=8):
    """In each step an all_gather for each unit, of 100 us, of which unit n exposes 10 us x n."""
    builder = step_builder()
    for step in (0, 1000 * US):
        for at in range(units):
            begin, end = step + at * 110 * US, step + (at * 110 + 100) * US
            name = f"Model blocks.{at}"
            builder.collective("_allgather_base_", begin, returned=begin, gpu=(begin, end), unit=name, **ROLE)
            if at:
                wait(builder, end - at * 10 * US, end)
    builder.save(directory / "rank00000-1-0.wanhook")
    return build(load(directory))


def test_units_that_are_exposed_most_come_first(tmp_path):
    report = units_report(tmp_path)
    lines = [line.split() for line in render(report, sections=["exposure"]).splitlines()]
    units = [line[1:] for line in lines if line and line[0] == "Model"]
    assert [unit[0] for unit in units] == [f"blocks.{at}" for at in (7, 6, 5, 4, 3)]
    assert units[0] == ["blocks.7", "2", "0.200", "0.140", "70.0%", "0.100", "0.070"]
    assert ["3", "more:", "0.060"] in [line[:3] for line in lines]
    lines = [line.split() for line in render(report, show_all=True).splitlines()]
    assert sum(line[:1] == ["Model"] for line in lines) == 8
    assert not any("(--all" in line for line in lines)


def test_units_of_which_nothing_is_exposed_are_left_out(tmp_path):
    text = render(units_report(tmp_path, units=2), sections=["exposure"])
    assert "Model blocks.1" in text
    assert "Model blocks.0" not in text
    assert "1 more: 0.000 exposed" in text
