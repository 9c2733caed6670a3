import pytest

from made_trace import TraceBuilder
from wanhook.analysis.scopes import innermost_paths, scope_table
from wanhook.tracefile.model import load

MS = 1_000_000


@pytest.fixture
def directory(tmp_path):
    return tmp_path


def table(directory):
    return {row.path: row for row in scope_table(load(directory).traces)}


def save(builder, directory, name="a"):
    builder.save(directory / f"{name}.wanhook")


def steps(lengths, rank=0, **fields):
    """One request with a step of each length (ms of GPU time; the host takes 1 ms), a millisecond apart."""
    builder = TraceBuilder(rank=rank, world_size=2, **fields)
    request = builder.scope("request", 0, 900 * MS, gpu=(1 * MS, 901 * MS))
    begin = 2 * MS
    for length in lengths:
        gpu = None if length is None else (begin, begin + length * MS)
        builder.scope("step", begin, begin + MS, gpu=gpu, parent=request)
        begin += MS + (length or 1) * MS
    return builder


def test_first_occurrence_stays_out_of_mean_percentiles_and_maximum(directory):
    save(steps([100, 10, 20, 30, 40]), directory)
    time = table(directory)["request/step"].time
    assert (time.count, time.total_ns, time.first_ns) == (5, 200 * MS, 100 * MS)
    assert (time.mean_ns, time.p50_ns, time.max_ns) == (25 * MS, 25 * MS, 40 * MS)
    assert time.p95_ns == pytest.approx(38.5 * MS)  # 30 + 0.85 * (40 - 30)


def test_one_occurrence_is_a_first_one_and_has_no_mean(directory):
    save(steps([100]), directory)
    time = table(directory)["request/step"].time
    assert (time.count, time.total_ns, time.first_ns, time.mean_ns, time.max_ns) == (1, 100 * MS, 100 * MS, None, None)


def test_host_time_stands_beside_gpu_time(directory):
    save(steps([100, 10, 20]), directory)
    row = table(directory)["request/step"]
    assert row.clock == "gpu"
    assert (row.host.total_ns, row.host.mean_ns) == (3 * MS, 1 * MS)


def test_ranks_are_pooled_each_without_its_first(directory):
    save(steps([100, 10, 20], rank=0), directory, "a")
    save(steps([60, 30, 40], rank=1), directory, "b")
    row = table(directory)["request/step"]
    assert row.occurrences == {0: 3, 1: 3}
    assert [(share.rank, share.count, share.total_ns) for share in row.ranks] == [(0, 3, 130 * MS), (1, 3, 130 * MS)]
    assert (row.time.mean_ns, row.time.first_ns) == (25 * MS, 80 * MS)


@pytest.mark.parametrize(
    ("second", "mean", "first"),
    [
        ({"life": 1}, 80 / 3 * MS, 100 * MS),  # a process warms up once
        ({"life": 0}, 15 * MS, 75 * MS),  # another one that was given the same id
        ({"life": 1, "pid": 4243}, 15 * MS, 75 * MS),
    ],
)
def test_two_recordings_of_a_rank_are_one_rank(directory, second, mean, first):
    save(steps([100, 10]), directory, "a")
    save(steps([50, 20], **second), directory, "b")
    row = table(directory)["request/step"]
    assert row.occurrences == {0: 4}
    assert (row.time.mean_ns, row.time.first_ns) == (pytest.approx(mean), first)
    assert row.ranks[0].total_ns == 180 * MS


def test_a_recording_a_request_has_a_mean_request(directory):
    for life in range(3):
        save(steps([100 - life], life=life), directory, str(life))
    rows = table(directory)
    assert rows["request"].time.mean_ns == 900 * MS
    assert rows["request/step"].time.mean_ns == 98.5 * MS


def test_what_has_no_gpu_time_is_counted_and_not_averaged(directory):
    builder = steps([100, None, 20])
    builder.scope("step", 500 * MS, None, parent=1)
    builder.scope("step", 510 * MS, 511 * MS, gpu=(510 * MS, 512 * MS), parent=1, flags=1)
    save(builder, directory)
    row = table(directory)["request/step"]
    assert row.occurrences == {0: 5}
    assert (row.time.count, row.time.mean_ns) == (3, 11 * MS)
    assert (row.unresolved, row.open, row.failed) == (1, 1, 1)


def test_on_the_cpu_host_time_takes_the_place_of_gpu_time(directory):
    builder = TraceBuilder(device="cpu")
    for begin, length in ((0, 9), (10, 3), (20, 5)):
        builder.scope("step", begin * MS, (begin + length) * MS)
    save(builder, directory)
    row = table(directory)["step"]
    assert (row.clock, row.time.first_ns, row.time.mean_ns, row.unresolved) == ("host", 9 * MS, 4 * MS, 0)


def test_scope_on_a_gpu_rank_that_was_not_timed_has_host_time_only(directory):
    builder = TraceBuilder()
    builder.device = -1  # as before CUDA is up: no stream to time
    builder.scope("load", 0, 5 * MS)
    save(builder, directory)
    row = table(directory)["load"]
    assert (row.clock, row.time.count, row.host.first_ns, row.unresolved) == (None, 0, 5 * MS, 0)


def test_rows_come_in_tree_order_with_their_depth(directory):
    builder = TraceBuilder()
    outer = builder.scope("request", 0, 100)
    late = builder.scope("decode", 50, 90, parent=outer)
    early = builder.scope("encode", 10, 40, parent=outer, level="block")
    builder.scope("attn", 60, 70, parent=late, level="op", type="wait")
    builder.scope("attn", 20, 30, parent=early, level="op")
    builder.scope("save", 200, 300)
    save(builder, directory)
    rows = scope_table(load(directory).traces)
    assert [(row.depth, row.path, row.level, row.type) for row in rows] == [
        (0, "request", "stage", "trace"),
        (1, "request/encode", "block", "trace"),
        (2, "request/encode/attn", "op", "trace"),
        (1, "request/decode", "stage", "trace"),
        (2, "request/decode/attn", "op", "wait"),
        (0, "save", "stage", "trace"),
    ]


def test_slash_in_a_name_is_no_level(directory):
    builder = TraceBuilder()
    outer = builder.scope("load_dit/high", 0, 100)
    builder.scope("fsdp/wrap", 10, 40, parent=outer)
    save(builder, directory)
    rows = scope_table(load(directory).traces)
    assert [(row.depth, row.name) for row in rows] == [(0, "load_dit/high"), (1, "fsdp/wrap")]


def test_no_scopes_no_rows(directory):
    save(TraceBuilder(), directory)
    assert scope_table(load(directory).traces) == []
    assert scope_table([]) == []


def test_innermost_paths_are_those_in_which_no_other_lies():
    paths = ["request", "request/step", "request/step/block", "request/steps", "other", "a/b/c", "a", "/x", "", "y/"]
    assert innermost_paths(paths) == {"request/step/block", "request/steps", "other", "a/b/c", "/x", "y/"}
    assert innermost_paths([]) == set()


def test_innermost_paths_of_a_program_that_invents_names():
    """Comparing each with each would take minutes."""
    names = {f"request {number}" for number in range(50_000)}
    assert innermost_paths(names | {"request"}) == names | {"request"}
