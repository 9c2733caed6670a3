"""The sums of a Wan request beside Kineto's, on made-up files of a run whose every figure can be added up by hand."""

import json

import numpy as np
import pytest

from benchmarks import kineto_window
from benchmarks.wan22 import kineto_sums, sums_join, sums_text
from benchmarks.wan22.sums_figures import analyse, gaps_of
from benchmarks.wan22.sums_verdicts import constant
from made_trace import TraceBuilder

US, MS = 1_000, 1_000_000
SHIFT = 7 * US  # Kineto's clock runs so far ahead
BLOCKS = 6
EXCHANGE, GATHER, CAST = 600 * US, 1500 * US, 100 * US
LEAD, LAG = 3 * US, 2 * US
MEMSETS = {"event_pair": {"0": {"empty_ns": 2000, "one_ns": 6200, "many_ns": 15000, "many": 5, "spread_ns": 100}}}
PAIR = 5 * US  # what the reader makes of it
SEND, ALL_GATHER = "ncclDevKernel_SendRecv(args)", "ncclDevKernel_AllGather_RING_LL(args)"
COMPUTE, SIDE = 7, 20  # Kineto's numbers; wanhook's are 0 and 9


class MadeRequest:
    """A block every 10 ms: FSDP casts, gathers for 1.5 ms and the compute stream waits, all host calls long before;
    then a matmul, three all_to_all for q, k, v, attention, one all_to_all for out, and work until the next block."""

    def __init__(self, folder, rank=0):
        self.folder, self.rank, self.activities = folder, rank, []
        self.builder = TraceBuilder(rank=rank, world_size=2, meta=MEMSETS)
        self.builder.group("0", (0, 1))

    def kernel(self, name, begin, end, stream=COMPUTE):
        start = self.builder.start_realtime + SHIFT
        self.activities.append((0, name, stream, start + begin, start + end))

    def call(self, op, role, begin, end, kernel, stream=0):
        called = begin - 5 * MS
        self.builder.collective(op, called, returned=called + 50 * US, role=role, gpu=(begin, end), stream=stream,
                                bytes_in=64)  # fmt: skip
        self.kernel(kernel, begin + LEAD, end - LAG, COMPUTE if stream == 0 else SIDE)

    def fill(self, gather_lead=0, late=5 * US):
        self.builder.scope("request", 0, 200 * MS, gpu=(0, 200 * MS), stream=0)
        self.kernel("t5", 10 * MS, 20 * MS)
        for block in range(BLOCKS):
            at = 20 * MS + block * 10 * MS
            gathered = at + CAST + GATHER
            self.builder.scope("fsdp wait", at - 5 * MS, at - 4 * MS, gpu=(at, gathered), stream=0, type="wait")
            self.kernel("cast", at, at + CAST, SIDE)
            self.call("_allgather_base_", "fsdp", at + CAST - gather_lead, gathered, ALL_GATHER, stream=9)
            if gather_lead:
                name, stream, start, end = self.activities[-1][1:]
                self.activities[-1] = (0, name, stream, start + gather_lead, end)
            self.block(gathered + late, at + 10 * MS)
        return self

    def block(self, at, end):
        self.kernel("matmul", at, at + 500 * US)
        at += 500 * US
        for role in ("qkv", "qkv", "qkv", "out"):
            self.call("alltoall_", role, at, at + EXCHANGE, SEND)
            self.kernel("attention", at + EXCHANGE, at + EXCHANGE + 500 * US)
            at += EXCHANGE + 500 * US
        self.kernel("ffn", at, end)

    def save(self):
        self.builder.save(self.folder / f"rank{self.rank}.wanhook")
        kineto_window.save(self.folder / f"kernels-rank{self.rank}.npz", self.activities[::-1])
        return self


@pytest.fixture
def two_ranks(tmp_path):
    for rank in range(2):
        MadeRequest(tmp_path, rank).fill().save()
    return tmp_path


def by_name(found):
    return {each["name"]: each for each in found["collectives"]}


def passed(found):
    return {each["what"]: each["passed"] for each in found["verdicts"]}


def test_sums_by_role(two_ranks):
    found = analyse(two_ranks)
    assert found["problems"] == []
    rows = by_name(found)
    counts = {"all_to_all qkv": 3, "all_to_all out": 1}
    for name, count in counts.items():
        calls = count * BLOCKS * 2
        kernel = EXCHANGE - LEAD - LAG
        assert (rows[name]["n"], rows[name]["without_kernel"]) == (calls, 0)
        assert (rows[name]["kineto_ns"], rows[name]["stream_ns"]) == (calls * kernel, calls * EXCHANGE)
        assert (rows[name]["time_ns"], rows[name]["queued"]) == (calls * EXCHANGE, 0)
        assert list(rows[name]["classes"]) == ["busy_alone"]
        assert rows[name]["corrected_ns"] == pytest.approx(calls * (EXCHANGE - PAIR), rel=1e-4)
        assert rows[name]["inside"]
    assert passed(found)["all_to_all qkv: time against Kineto's kernels"]
    for each in found["clocks"]:
        assert [each["least_ns"], each["most_ns"]] == pytest.approx([SHIFT + (LEAD - LAG) / 2] * 2, abs=10)


def test_the_exposed_part_is_the_gap_in_which_the_gather_ran(two_ranks):
    found = analyse(two_ranks)
    for rank in found["exposed"]:
        assert (rank["compute_stream"], rank["waits"], rank["without_gap"]) == (COMPUTE, BLOCKS, 0)
        assert rank["exposed_ns"] == BLOCKS * GATHER
        assert rank["gaps"] == BLOCKS
        assert rank["gaps_in_gather_ns"] == BLOCKS * (GATHER - LEAD - LAG)


def test_a_cast_in_the_gap_is_told_from_the_gather(two_ranks):
    verdicts = passed(analyse(two_ranks))
    assert not verdicts["exposed all_gather against the gaps of its waits"]
    assert verdicts["exposed all_gather against the gaps while its kernels ran"]
    assert verdicts["waits against their gaps"]


def test_a_gather_that_waits_for_its_turn_is_not_on(tmp_path):
    lead = 2 * MS  # its stream gets there while an earlier call of the group is on
    request = MadeRequest(tmp_path).fill(gather_lead=lead)
    for block in range(BLOCKS):
        start = 20 * MS + block * 10 * MS + CAST
        request.call("allreduce_", "", start - lead - US, start + LAG, "ncclDevKernel_AllReduce_Sum(args)")
    request.save()
    gather = by_name(analyse(tmp_path))["all_gather fsdp"]
    assert (gather["queued"], gather["queued_ns"]) == (BLOCKS, BLOCKS * (lead + LAG))
    assert gather["stream_share"] > 1
    assert gather["behind_ns"] == pytest.approx(BLOCKS * lead, rel=0.01)
    assert abs(gather["time_share"]) < 0.01
    assert gather["corrected_ns"] == gather["time_ns"]
    span = gather["worst"][0]
    assert span["after"].startswith("ncclDevKernel_AllReduce")
    assert span["queued_ns"] == lead + LAG


def test_what_waits_for_sms_is_explained_and_what_nothing_explains_fails(tmp_path, capsys):
    lead = 2 * MS
    request = MadeRequest(tmp_path).fill(gather_lead=lead)
    request.kernel("matmul", 0, 100 * MS, stream=30)
    request.save()
    what = "all_gather fsdp: time against Kineto's kernels"
    (verdict,) = (each for each in analyse(tmp_path)["verdicts"] if each["what"] == what)
    assert (verdict["passed"], verdict["explained"]) == (False, True)
    assert verdict["parts"]["beside"] == pytest.approx(BLOCKS * lead, rel=0.01)
    request.activities = [row for row in request.activities if row[1] in (SEND, ALL_GATHER)]
    request.save()
    assert kineto_sums.report(tmp_path, None) == 1
    assert f"FAIL  +134.11%  {what}" in capsys.readouterr().out


def test_the_constant_of_a_gap_is_taken_from_waits_for_nothing(tmp_path):
    request = MadeRequest(tmp_path)
    for at in range(MS, 6 * MS, MS):
        request.kernel("gemm", at, at + MS - 12 * US)
        request.builder.scope("fsdp wait", 0, 10, gpu=(at - 7 * US, at - 4 * US), stream=0, type="wait")
    found = analyse(request.fill().save().folder)
    still = constant(found["exposed"])
    assert (still["n"], still["waits_ns"], still["gaps_ns"]) == (4, 3 * US, 12 * US)
    assert still["dry_ns"] == pytest.approx(5 * US, abs=US)
    (verdict,) = (each for each in found["verdicts"] if each["what"] == "waits against their gaps")
    assert verdict["parts"]["constant of the gaps"] == -(BLOCKS + 4) * 9 * US


def test_a_lost_kernel_is_said_and_fails(tmp_path):
    request = MadeRequest(tmp_path).fill()
    sends = [at for at, row in enumerate(request.activities) if row[1] == SEND]
    del request.activities[sends[4]]
    request.save()
    found = analyse(tmp_path)
    assert found["problems"] == [
        f"rank 0: all_to_all: {4 * BLOCKS} calls, {4 * BLOCKS - 1} kernels; 1 calls without a kernel"
    ]
    rows = by_name(found)
    assert rows["all_to_all qkv"]["without_kernel"] + rows["all_to_all out"]["without_kernel"] == 1
    # The others still have the right ones.
    assert rows["all_to_all out"]["excess_p95_ns"] == LEAD + LAG
    assert not all(passed(found).values())
    assert kineto_sums.report(tmp_path, None) == 1


def test_no_kernels_at_all_is_said_plainly(tmp_path, capsys):
    request = MadeRequest(tmp_path).fill()
    request.activities = []
    request.save()
    assert kineto_sums.report(tmp_path, tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "Kineto saw nothing on a GPU" in said
    assert "nothing could be compared" in said


def test_gaps_of_releases():
    gaps = np.array([[0, 100 * US], [200 * US, 300 * US], [310 * US, 320 * US]])
    release = np.array([99, 104, 106, 85, 79, 299, 310, 400]) * US
    assert gaps_of(gaps, release).tolist() == [0, 0, -1, 0, -1, 1, 2, -1]
    assert gaps_of(gaps[:0], release).tolist() == [-1] * len(release)


@pytest.mark.parametrize("part_bytes", [1 << 20, 1000])
def test_again_from_the_archive(two_ranks, tmp_path, monkeypatch, capsys, part_bytes):
    monkeypatch.setattr(kineto_sums, "PART_BYTES", part_bytes)
    about = {"ranks": 2, "device": "Made GPU", "torch": "2.11", "nccl": "2.28", "latents_equal": True,
             "size": {"name": "14b"}, "requests": [{"observer": "wanhook", "seconds": 1.0}]}  # fmt: skip
    (two_ranks / "about.json").write_text(json.dumps(about))
    first = kineto_sums.report(two_ranks, tmp_path / "first")
    parts = kineto_sums.pack(two_ranks, tmp_path / "packed")
    assert (len(parts) > 1) == (part_bytes == 1000)
    into = tmp_path / "into"
    into.mkdir()
    again = kineto_sums.report(kineto_sums.unpack(tmp_path / "packed", into), tmp_path / "again")
    assert first == again == 0  # the cast alone, which is explained
    texts = [(tmp_path / name / "sums.md").read_text() for name in ("first", "again")]
    assert texts[0] == texts[1]
    assert "the 10 spans farthest" not in texts[0]
    assert "Waits that are farthest from their gaps" in texts[0]
    figures = [json.loads((tmp_path / name / "sums.json").read_text()) for name in ("first", "again")]
    assert figures[0] == figures[1]


def test_a_missed_limit_lists_its_spans(tmp_path):
    MadeRequest(tmp_path).fill(gather_lead=2 * MS).save()
    found = analyse(tmp_path) | {"about": None}
    text = sums_text.markdown(found)
    assert f"all_gather fsdp: the {BLOCKS} spans farthest from their kernels" in text
    assert "all_to_all qkv: the 1" not in text


@pytest.mark.parametrize(("stretch", "lost"), [(4, False), (1000, True)])
def test_clocks_that_stray_are_followed(tmp_path, monkeypatch, stretch, lost):
    monkeypatch.setattr(sums_join, "STRETCH", stretch)
    request = MadeRequest(tmp_path).fill()
    start = request.builder.start_realtime
    request.activities = [
        (*row[:3], *(moment + (moment - start) * 80 * US // (100 * MS) for moment in row[3:]))
        for row in request.activities
    ]
    request.save()
    found = analyse(tmp_path)
    assert found["problems"] == []
    (clock,), (exposed,) = found["clocks"], found["exposed"]
    assert (clock["most_ns"] - clock["least_ns"] > 30 * US) != lost
    assert (exposed["without_gap"] > 0) == lost
