"""wanhook.memory: asked of a made-up GPU."""

import subprocess
import sys

import pytest
import torch

import wanhook
from wanhook import memory

MIB, GIB = 1 << 20, 1 << 30
STATS = {"allocated": 20 * MIB, "reserved": 60 * MIB, "active": 24 * MIB, "requested": 19 * MIB}


@pytest.fixture
def gpu(monkeypatch):
    """Two devices; the second has 24 of 60 MiB in use, its largest free block is of another stream."""
    blocks = [("active_allocated", 20), ("active_pending_free", 4), ("inactive", 12)]
    others = [("inactive", 24)]
    segments = [
        {
            "device": 1, "address": 0, "total_size": sum(size for _, size in content) * MIB, "stream": stream,
            "segment_type": "large", "segment_pool_id": (0, 0), "is_expandable": False,
            "blocks": [{"state": state, "size": size * MIB} for state, size in content],
        }
        for stream, content in ((0, blocks), (9, others))
    ]  # fmt: skip
    elsewhere = {**segments[0], "device": 0, "blocks": [{"state": "inactive", "size": GIB}]}
    snapshot = {"segments": [*segments, elsewhere], "allocator_settings": {}}
    made_up = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": lambda: 2,
        "mem_get_info": lambda device: (3 * GIB, 10 * GIB),
        "memory_stats": lambda device: {f"{name}_bytes.all.current": value for name, value in STATS.items()},
        "memory_reserved": lambda device: STATS["reserved"],
        "get_per_process_memory_fraction": lambda device: 1.0,
        "current_stream": lambda device: type("Stream", (), {"cuda_stream": 0}),
        "current_device": lambda: 1,
    }
    for name, function in made_up.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(memory, "_index", lambda torch, device: 1 if device is None else device)
    monkeypatch.setattr(torch._C, "_cuda_memorySnapshot", lambda asked: snapshot, raising=False)
    return made_up


def test_importing_it_imports_no_torch():
    code = "import sys, wanhook; wanhook.memory.info; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "memory" in dir(wanhook)


def test_info(gpu):
    found = memory.info()
    assert {name: getattr(found, name) for name in STATS} == STATS
    assert (found.device, found.largest_free_block) == (1, 24 * MIB)
    assert (found.device_free, found.device_total) == (3 * GIB, 10 * GIB)
    assert memory.info(0).largest_free_block == GIB


@pytest.mark.parametrize(
    ("gib", "verdict", "says"),
    [
        (12 / 1024, "free block", "12.0 MiB fit into a free block of the cache: the largest has 12.0 MiB."),
        (13 / 1024, "device", "13.0 MiB fit: 14.0 MiB would come from the device; the cache has 36.0 MiB free, 12.0"),
        (3, "device", "3072.0 MiB fit: 3072.0 MiB would come from the device"),
        (3 + 24 / 1024, "after freeing", "3096.0 MiB fit once 24.0 MiB of cache are given back"),
        (3.5, "no", "3584.0 MiB do not fit: 488.0 MiB are missing. The device can give 3072.0 MiB"),
    ],
)
def test_check(gpu, gib, verdict, says):
    found = memory.check(gib)
    assert found.verdict == verdict
    assert bool(found) == found.fits == (verdict != "no")
    assert found.text.startswith(says)
    assert found.asked == round(gib * GIB)
    assert (found.free, found.device_free, found.limit_left) == (36 * MIB, 3 * GIB, 10 * GIB - 60 * MIB)


def test_check_says_how_much_is_missing(gpu):
    found = memory.check(3.5)
    assert (found.short, found.freeable, found.needs) == (GIB // 2 - 24 * MIB, 24 * MIB, 3 * GIB + GIB // 2)


def test_check_knows_the_limit_of_the_process(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.1)
    assert memory.check(0.9).verdict == "device"
    found = memory.check(0.99)
    assert (found.verdict, found.limit_left) == ("no", GIB - 60 * MIB)


def test_check_takes_a_snapshot_of_an_older_torch(gpu, monkeypatch):
    taken = torch._C._cuda_memorySnapshot(None)

    def older(asked):
        if asked is not None:
            raise TypeError("a pair, please")
        return {"segments": taken["segments"]}

    monkeypatch.setattr(torch._C, "_cuda_memorySnapshot", older)
    assert memory.check(3).verdict == "device"


def test_check_raises_nothing(gpu, monkeypatch):
    def broken(device):
        raise RuntimeError("CUDA error: the GPU is gone")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    found = memory.check(1)
    assert (found.fits, found.verdict, found.text) == (False, "unknown", "CUDA error: the GPU is gone")


def test_clear_returns_what_the_driver_got(gpu, monkeypatch):
    order = []
    reserved = {0: [5 * GIB, 4 * GIB], 1: [3 * GIB, 3 * GIB]}
    monkeypatch.setattr(memory.gc, "collect", lambda: order.append("garbage"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("cache"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved[device].pop(0))
    assert memory.clear() == GIB
    assert order == ["garbage", "cache"]


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="torch sees no GPU here: look at CUDA_VISIBLE_DEVICES"):
        memory.info()
    found = memory.check(1)
    assert (bool(found), found.verdict) == (False, "unknown")
    assert "no GPU here" in found.text
    assert memory.clear() == 0
