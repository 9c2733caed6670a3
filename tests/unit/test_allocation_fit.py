"""Where an allocation would come from, by torch's rules."""

import pytest

from wanhook.allocation_fit import MIB, Rules, fit

FREE, LIVE, PENDING = "inactive", "active_allocated", "active_pending_free"


def segment(*blocks, stream=0, kind="large", pool=(0, 0), expandable=False):
    """``blocks``: (state, size) in the order of their addresses."""
    return {
        "address": 1 << 40,
        "total_size": sum(size for _, size in blocks),
        "stream": stream,
        "segment_type": kind,
        "segment_pool_id": pool,
        "is_expandable": expandable,
        "blocks": [{"state": state, "size": size} for state, size in blocks],
    }


def asked(size, *segments, rules=None, stream=0, device=0, limit=1 << 60):
    return fit(size, list(segments), rules or Rules(), stream, device, limit)


@pytest.mark.parametrize(
    ("size", "block"),
    [(0, 512), (1, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512), (12_000_004, 12_000_256)],
)
def test_blocks_are_whole_units(size, block):
    assert Rules().block_size(size) == block


@pytest.mark.parametrize(
    ("size", "block"),
    [(1200, 1536), (2000, 2048), (2100, 2560), (5 * MIB, 5 * MIB), (5 * MIB + 1, 6 * MIB), (9 * MIB, 10 * MIB)],
)
def test_divisions_of_a_power_of_two(size, block):
    assert Rules(divisions=(4,) * 16).block_size(size) == block


def test_divisions_by_size():
    rules = Rules(divisions=(1,) * 8 + (2,) + (4,) + (8,) * 6)
    assert rules.block_size(100 * MIB + 1) == 100 * MIB + 512
    assert rules.block_size(300 * MIB) == 384 * MIB
    assert rules.block_size(600 * MIB) == 640 * MIB
    assert rules.block_size(100 << 30) == 104 << 30


@pytest.mark.parametrize(("block", "device"), [(512, 2), (MIB, 2), (MIB + 512, 20), (10 * MIB, 10), (11 * MIB, 12)])
def test_segments_of_the_device(block, device):
    assert Rules().asked_of_device(block) == device * MIB


def test_expandable_segments_grow_by_pages():
    rules = Rules(expandable_segments=True)
    assert rules.asked_of_device(512) == 2 * MIB
    assert rules.asked_of_device(21 * MIB) == 40 * MIB
    assert rules.segment_size(21 * MIB) == 22 * MIB


def test_settings_as_torch_tells_them():
    told = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True, large_segment_size_mb:40",
        "max_split_size": 64 * MIB,
        "expandable_segments": True,
        "roundup_power2_divisions": {"16": 8, "1": 2, "2": 4},
    }
    assert Rules.of(told) == Rules(64 * MIB, (2, 4, 8), 40 * MIB, True)
    assert Rules.of({"max_split_size": -1, "roundup_power2_divisions": {}}) == Rules()
    assert Rules.of({"max_split_size": (1 << 63) - 1}) == Rules.of({}) == Rules()


def test_a_free_block_is_taken_first():
    found = asked(30 * MIB, segment((LIVE, 8 * MIB), (FREE, 30 * MIB), (FREE, 2 * MIB)), device=1 << 40)
    assert (found.verdict, found.needs, found.largest_free_block, found.free) == (
        "free block", 0, 30 * MIB, 32 * MIB)  # fmt: skip


@pytest.mark.parametrize(
    "other", [{"stream": 7}, {"pool": (0, 3)}, {"kind": "small"}], ids=["stream", "pool", "size class"]
)
def test_free_blocks_of_others_do_not_serve(other):
    found = asked(30 * MIB, segment((FREE, 100 * MIB), **other), device=30 * MIB)
    assert (found.verdict, found.needs, found.largest_free_block) == ("device", 30 * MIB, 0)


def test_fragments_do_not_serve():
    fragments = segment((FREE, 10 * MIB), (LIVE, MIB), (FREE, 10 * MIB), (LIVE, MIB), (FREE, 10 * MIB))
    found = asked(20 * MIB, fragments, device=19 * MIB)
    assert (found.verdict, found.short, found.free, found.freeable) == ("no", MIB, 30 * MIB, 0)


def test_the_cache_is_emptied_when_the_device_is_full():
    found = asked(
        50 * MIB, segment((FREE, 30 * MIB)), segment((PENDING, 8 * MIB), (FREE, 2 * MIB), stream=5), device=MIB
    )
    assert (found.verdict, found.freeable, found.short) == ("no", 40 * MIB, 9 * MIB)
    found = asked(50 * MIB, segment((FREE, 30 * MIB)), segment((PENDING, 8 * MIB), stream=5), device=12 * MIB)
    assert (found.verdict, found.needs, found.freeable, found.short) == ("after freeing", 50 * MIB, 38 * MIB, 0)


def test_the_limit_of_the_process_counts():
    assert asked(50 * MIB, device=60 * MIB, limit=49 * MIB).short == MIB
    assert asked(50 * MIB, device=60 * MIB, limit=50 * MIB).verdict == "device"


def test_a_private_pool_keeps_its_segments():
    assert asked(50 * MIB, segment((FREE, 50 * MIB), pool=(4, 0))).freeable == 0


def test_max_split_size_keeps_large_blocks_whole():
    rules = Rules(max_split_size=64 * MIB)
    assert asked(30 * MIB, segment((FREE, 64 * MIB)), rules=rules, device=1 << 40).verdict == "device"
    assert asked(30 * MIB, segment((FREE, 63 * MIB)), rules=rules).verdict == "free block"
    assert asked(70 * MIB, segment((FREE, 90 * MIB)), rules=rules, device=1 << 40).verdict == "device"
    assert asked(70 * MIB, segment((FREE, 89 * MIB)), rules=rules).verdict == "free block"


def test_an_expandable_segment_is_held_to_the_limit_by_its_block():
    rules = Rules(expandable_segments=True)
    found = asked(21 * MIB, rules=rules, device=40 * MIB, limit=22 * MIB)
    assert (found.verdict, found.needs) == ("device", 40 * MIB)
    assert asked(21 * MIB, rules=rules, device=39 * MIB).short == MIB
    assert asked(21 * MIB, rules=rules, device=40 * MIB, limit=20 * MIB).short == 2 * MIB


def test_an_expandable_segment_gives_back_whole_pages():
    rules = Rules(expandable_segments=True)
    holes = segment((FREE, 50 * MIB), (LIVE, 5 * MIB), (PENDING, 30 * MIB), (LIVE, 5 * MIB), (FREE, 10 * MIB),
                    (FREE, 20 * MIB), expandable=True)  # fmt: skip
    # Pages of 20 MiB: two in the first 50; none in 55-85 but 60-80; 100-120 of 90-120.
    assert asked(500 * MIB, holes, rules=rules).freeable == 80 * MIB
