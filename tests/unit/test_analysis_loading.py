"""The load table and the waits, against sums made by hand."""

import pytest

import made_load
from made_load import DIT, GIB, SECOND, T5
from made_trace import TraceBuilder
from wanhook.analysis.load_waits import load_waits
from wanhook.analysis.loading import MARK, load_table, parts_of
from wanhook.report.as_json import as_json
from wanhook.report.build import build
from wanhook.report.terminal import render
from wanhook.tracefile.model import load


@pytest.fixture
def traces(tmp_path):
    return load(made_load.save_load(tmp_path)).traces


def rows_of(traces):
    return {(row.component, row.rank): row for row in load_table(traces)}


def test_components_stand_in_the_order_of_their_begin_with_what_holds_them_first(traces):
    order = [(row.component, row.rank) for row in load_table(traces)]
    names = ["load", "load_t5", "load_dit high_noise", "configure high_noise"]
    assert order == [(name, rank) for name in names for rank in (0, 1)]


def test_figures_of_a_component(traces):
    row = rows_of(traces)["load_t5", 0]
    assert (row.time_ns, row.count, row.measured, row.shared) == (9 * SECOND, 1, True, False)
    assert (row.thread_cpu_ns, row.process_cpu_ns) == (2 * SECOND, 4 * SECOND)
    assert row.cpu_share == pytest.approx(4 / 9)
    assert (row.weights_bytes, row.storage_bytes, row.read_call_bytes, row.mapped_bytes) == (T5, T5, T5, 0)
    assert row.rate_bytes_per_s == pytest.approx(T5 / 9)
    assert (row.rate_of, row.storage_share) == ("weights", 1.0)
    assert (row.resident_begin_bytes, row.resident_end_bytes, row.gpu_bytes) == (GIB, 3 * GIB, T5)


def test_the_page_cache_is_told_from_the_disk(traces):
    rows = rows_of(traces)
    assert rows["load_t5", 1].storage_share == 0
    assert rows["load_t5", 1].rate_bytes_per_s == pytest.approx(T5 / 3)
    assert rows["load_dit high_noise", 0].storage_share == pytest.approx(0.5)
    assert rows["load_dit high_noise", 0].mapped_bytes == DIT


def test_what_holds_others_has_their_weights_together(traces):
    assert rows_of(traces)["load", 1].weights_bytes == T5 + DIT


def test_a_scope_that_was_not_measured_has_its_time_and_gpu_bytes(traces):
    row = rows_of(traces)["configure high_noise", 0]
    assert (row.time_ns, row.measured, row.gpu_bytes) == (10 * SECOND, False, DIT)
    assert row.cpu_share is row.weights_bytes is row.storage_bytes is row.storage_share is None
    assert (row.rate_of, row.rate_bytes_per_s) == ("gpu", DIT / 10)


def test_without_a_checkpoint_the_rate_is_of_what_was_read_at_least(tmp_path):
    builder = TraceBuilder(device="cpu")
    scope = builder.scope("load_vae", 0, 2 * SECOND)
    args = made_load.figures(1, 5 * GIB, GIB, resident_file_bytes_end=3 * GIB)
    builder.mark(MARK, SECOND, scope=scope, args=args)
    row = load_table(load(builder.save(tmp_path / "a.wanhook")).traces)[0]
    assert (row.rate_of, row.rate_bytes_per_s, row.storage_share) == ("reads", 5 * GIB / 2, 1.0)
    assert row.gpu_bytes is None


def test_a_measured_scope_of_any_name_is_a_component(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.scope("request", 0, 9 * SECOND)
    scope = builder.scope("warm the cache", 0, SECOND, args={"expert": 3})
    builder.mark(MARK, 10, scope=scope, args=made_load.figures(1, 0, 0, shared=True))
    rows = load_table(load(builder.save(tmp_path / "a.wanhook")).traces)
    assert [(row.component, row.shared) for row in rows] == [("warm the cache", True)]


def test_occurrences_are_summed(tmp_path):
    builder = TraceBuilder(device="cpu")
    for begin in (0, 5):
        scope = builder.scope("load_t5", begin * SECOND, (begin + 1) * SECOND)
        builder.mark(MARK, begin * SECOND + 10, scope=scope, args=made_load.figures(1, 3, 5, checkpoint_bytes=7))
    row = load_table(load(builder.save(tmp_path / "a.wanhook")).traces)[0]
    assert (row.count, row.time_ns, row.weights_bytes, row.storage_bytes) == (2, 2 * SECOND, 14, 6)


@pytest.mark.parametrize("wrong", [None, "many", -1, 1 << 70, [1], {"a": 1}, 2.5])
def test_a_damaged_figure_is_not_known(tmp_path, wrong):
    builder = TraceBuilder(device="cpu")
    scope = builder.scope("load_t5", 0, SECOND)
    broken = dict.fromkeys(made_load.figures(1, 1, 1, checkpoint_bytes=1), wrong)
    builder.mark(MARK, 10, scope=scope, args=broken)
    row = load_table(load(builder.save(tmp_path / "a.wanhook")).traces)[0]
    assert (row.weights_bytes, row.storage_bytes, row.process_cpu_ns, row.resident_end_bytes) == (None,) * 4
    assert as_json(build(load(tmp_path)))


def test_parents_in_a_circle_do_no_harm(tmp_path):
    builder = TraceBuilder(device="cpu")
    for number in range(4):
        builder.scope("load_t5", 0, SECOND, parent=(number + 1) % 4 + 1)
    traces = load(builder.save(tmp_path / "a.wanhook")).traces
    assert len(parts_of(traces[0])) == 4
    assert load_waits(traces) == []


def test_a_load_that_never_ended_is_left_out(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.scope("load", 0, None)
    assert load_table(load(builder.save(tmp_path / "a.wanhook")).traces) == []


def test_waits_and_what_the_other_rank_did(traces):
    waits = load_waits(traces)
    # Rank 1 waits from 3 to 10: rank 0 is busy with T5 until 9, then waits itself.
    assert [(wait.rank, wait.component, wait.waited_ns) for wait in waits] == [
        (1, "load", 7 * SECOND),
        (0, "load", 1 * SECOND),
    ]
    assert [(one.rank, one.component, one.time_ns) for one in waits[0].meanwhile] == [(0, "load_t5", 6 * SECOND)]
    assert waits[1].meanwhile == []


def test_ranks_of_other_hosts_are_not_compared(tmp_path):
    for rank, boot in ((0, "one"), (1, "two")):
        meta = {"process": {"boot_id": boot}}
        builder = made_load.loading_rank(rank, t5_ends=9 - 6 * rank, from_disk=False, meta=meta)
        builder.save(tmp_path / f"{rank}.wanhook")
    assert [wait.meanwhile for wait in load_waits(load(tmp_path).traces)] == [[], []]


def test_a_blocking_collective_is_a_wait_and_an_asynchronous_one_is_not(tmp_path):
    builder = TraceBuilder(device="cpu")
    load_scope = builder.scope("load", 0, 9 * SECOND)
    builder.group("0", (0,))
    builder.collective("broadcast_", SECOND, returned=SECOND + 5, completed=3 * SECOND, scope=load_scope)
    builder.collective("broadcast_", 4 * SECOND, returned=4 * SECOND + 5, completed=8 * SECOND, flags=1)
    waits = load_waits(load(builder.save(tmp_path / "a.wanhook")).traces)
    assert [wait.waited_ns for wait in waits] == [2 * SECOND]


def test_the_text_names_both_ranks(tmp_path):
    text = render(build(load(made_load.save_load(tmp_path))))
    assert "LOADING" in text
    assert "load/load_dit high_noise" in text
    assert "Rank 1 waited 7.000 s in load: rank 0 was busy in load/load_t5 for 6.000 s of it." in " ".join(text.split())
    line = next(line for line in text.splitlines() if line.split()[:3] == ["rank", "0", "9.000"])
    assert line.split()[3:] == ["44%", "8.000", "8.000", "100%", "0.95", "8.000", "3.000"]


def test_a_run_without_loads_has_no_such_table(tmp_path):
    builder = TraceBuilder()
    builder.scope("request", 0, SECOND)
    builder.save(tmp_path / "a.wanhook")
    assert "LOADING" not in render(build(load(tmp_path)))


def test_of_many_ranks_the_slowest_is_shown(tmp_path):
    for rank in range(12):
        made_load.loading_rank(rank, t5_ends=rank % 9 + 1, from_disk=False).save(tmp_path / f"{rank}.wanhook")
    report = build(load(tmp_path))
    short, whole_text = render(report), render(report, show_all=True)
    assert "Of each component the slowest rank is shown; --all shows 11 more." in short
    assert len(whole_text.splitlines()) > len(short.splitlines()) + 40


def test_what_lies_in_an_expert_s_load_is_the_expert_s(tmp_path):
    builder = TraceBuilder(device="cpu")
    for begin, expert in ((0, "low_noise"), (5, "high_noise")):
        outer = builder.scope("load_dit", begin * SECOND, (begin + 3) * SECOND, args={"expert": expert})
        between = builder.scope("placing", begin * SECOND, (begin + 2) * SECOND, parent=outer)
        builder.scope("fsdp_wrap", begin * SECOND, (begin + 1) * SECOND, parent=between)
    rows = load_table(load(builder.save(tmp_path / "a.wanhook")).traces)
    assert [row.component for row in rows] == [
        "load_dit low_noise", "fsdp_wrap low_noise", "load_dit high_noise", "fsdp_wrap high_noise"
    ]  # fmt: skip
