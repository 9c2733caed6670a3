"""The overlap matrix, from made-up times."""

import pytest

from made_trace import TraceBuilder
from wanhook.analysis.overlaps import MAX_CLASSES, OTHER, overlaps
from wanhook.tracefile.model import load

US = 1_000


def matrix(tmp_path, *builders):
    for number, builder in enumerate(builders):
        builder.save(tmp_path / f"{number}.wanhook")
    found = overlaps(load(tmp_path).traces)
    return {(overlap.name, overlap.beside): (overlap.ns, overlap.both_ns) for overlap in found}


def made(rank=0):
    builder = TraceBuilder(rank=rank, world_size=2)
    builder.group("0", (0, 1))
    builder.collective("alltoall_", 0, gpu=(0, 40 * US), role="qkv")
    builder.collective("alltoall_base_", 0, gpu=(50 * US, 60 * US), role="out")
    builder.collective("_allgather_base_", 0, gpu=(20 * US, 55 * US), stream=9, role="fsdp")
    builder.collective("allgather_", 0, gpu=(30 * US, 45 * US), stream=11)
    builder.collective("allreduce_", 0, gpu=(100 * US, 120 * US), stream=9)
    return builder


def test_pairs_both_ways(tmp_path):
    qkv, out, gather = "all_to_all qkv", "all_to_all out", "all_gather"
    assert matrix(tmp_path, made()) == {
        (qkv, gather): (40 * US, 20 * US), (gather, qkv): (35 * US, 20 * US),
        (out, gather): (10 * US, 5 * US), (gather, out): (35 * US, 5 * US),
        (qkv, out): (40 * US, 0), (out, qkv): (10 * US, 0),
        (qkv, OTHER): (40 * US, 0), (OTHER, qkv): (20 * US, 0),
        (out, OTHER): (10 * US, 0), (OTHER, out): (20 * US, 0),
        (gather, OTHER): (35 * US, 0), (OTHER, gather): (20 * US, 0),
    }  # fmt: skip


def test_ranks_add_up_and_never_meet(tmp_path):
    late = TraceBuilder(rank=1, world_size=2)
    late.group("0", (0, 1))
    late.collective("alltoall_", 0, gpu=(20 * US, 60 * US), role="qkv")
    found = matrix(tmp_path, made(), late)
    assert found["all_to_all qkv", "all_gather"] == (80 * US, 20 * US)


def test_share_is_of_the_first_class(tmp_path):
    found = {(each.name, each.beside): each.share for each in overlaps([load(made().save(tmp_path / "a")).traces[0]])}
    assert found["all_to_all out", "all_gather"] == 0.5
    assert found["all_gather", "all_to_all qkv"] == pytest.approx(20 / 35)


def test_as_many_classes_as_a_page_holds(tmp_path):
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    for number in range(MAX_CLASSES + 3):
        builder.collective("alltoall_", 0, gpu=(0, (number + 1) * US), role=f"role {number}")
    found = matrix(tmp_path, builder)
    assert len(found) == MAX_CLASSES * (MAX_CLASSES - 1)
    assert ("all_to_all role 0", "all_to_all role 1") not in found


def test_no_collectives_no_pairs(tmp_path):
    assert matrix(tmp_path, TraceBuilder()) == {}
