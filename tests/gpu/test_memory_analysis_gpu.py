"""The memory analysis on a GPU: peaks inside stages as torch counts them, and workloads with known answers."""

import gc

import pytest
import torch

from gpu.allocating import random_operations
from gpu.processes import Program, run_together
from gpu.recorded import assert_healthy, only_trace, recorded

pytestmark = pytest.mark.gpu

MIB = 1 << 20
PEAKS = {"allocated_peak": "allocated_bytes", "active_peak": "active_bytes", "reserved_peak": "reserved_bytes"}


@pytest.fixture(autouse=True)
def quiet_allocator():
    """No garbage of an earlier test is freed in the middle of a count."""
    torch.cuda.init()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    gc.disable()
    yield
    gc.enable()


def memory(trace):
    """The memory of the current device, of which the replay is exact."""
    from wanhook.analysis.memory import memory_of

    assert_healthy(trace)
    (found,) = [state for state in memory_of([trace]) if state.device == torch.cuda.current_device()]
    assert (found.check.refused, found.check.first_difference) == ([], None)
    assert found.check.equal == found.check.places > 0
    return found


def block(mib: float) -> torch.Tensor:
    return torch.empty(int(mib * MIB), dtype=torch.uint8, device="cuda")


def test_peaks_inside_stages_are_torchs_own(tmp_path):
    import wanhook

    expected = {}
    with recorded(tmp_path) as recording:
        for seed in range(6):
            torch.cuda.reset_peak_memory_stats()
            begin = torch.cuda.memory_allocated()
            with wanhook.trace(f"stage{seed}"):
                random_operations(seed, 400)
                stats = torch.cuda.memory_stats()
            expected[f"stage{seed}"] = begin, stats
    found = {row.path: row for row in memory(recording.trace).scopes}
    for name, (begin, stats) in expected.items():
        for ours, torchs in PEAKS.items():
            assert getattr(found[name], ours).max_bytes == stats[f"{torchs}.all.peak"], (name, ours)
        assert found[name].activation.max_bytes == stats["allocated_bytes.all.peak"] - begin


def test_scope_that_pins_segments_is_named(tmp_path):
    import wanhook

    with recorded(tmp_path) as recording, wanhook.trace("stage"):
        temporaries, cache = [], []
        for _ in range(6):
            temporaries.append(block(9))  # a segment of 20 MiB
            with wanhook.trace("cache"):
                cache.append(block(2))
            temporaries.append(block(9))  # and it is full
        del temporaries
    found = memory(recording.trace)
    pins = found.pins[-1]
    assert "end" in pins.when
    (holder,) = [holder for holder in pins.holders if holder.source.path == "stage/cache"]
    assert (holder.segments, holder.blocks, holder.live_bytes) == (6, 6, 12 * MIB)
    assert holder.alone_bytes == 6 * 18 * MIB
    del cache


def test_leak_of_one_mib_a_step_is_found(tmp_path):
    import wanhook

    kept = []
    with recorded(tmp_path) as recording:
        for _ in range(8):
            with wanhook.trace("denoise_step"):
                work = block(40)
                with wanhook.trace("scheduler_step"):
                    kept.append(block(1))
                del work
    leak = memory(recording.trace).leaks[0]
    assert (leak.path, leak.growth_bytes, leak.total_bytes) == ("denoise_step", MIB, 7 * MIB)
    assert [(owner.source.path, owner.blocks) for owner in leak.owners] == [("denoise_step/scheduler_step", 7)]


@pytest.mark.parametrize(("asked", "verdict"), [("scattered", "fragmentation"), ("limit", "limit"), ("all", "size")])
def test_cause_of_an_out_of_memory(tmp_path, asked, verdict):
    import wanhook

    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    with recorded(tmp_path) as recording:
        with wanhook.trace("weights"):
            wide = [block(64) for _ in range(8)]
            del wide
            held = [block(40) for _ in range(8)]  # leaves 24 MiB in each segment
        size = {"scattered": 100 * MIB, "limit": 2048 * MIB, "all": 2 * total}[asked]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 16 * MIB) / total)
        try:
            with wanhook.trace("decode"), pytest.raises(torch.OutOfMemoryError):
                torch.empty(size, dtype=torch.uint8, device="cuda")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    found = memory(recording.trace)
    dead = found.out_of_memory[0].post_mortem
    assert (found.out_of_memory[0].path, dead.verdict) == ("decode", verdict)
    assert dead.usable.bytes >= 8 * 24 * MIB
    assert dead.usable.largest_bytes < 100 * MIB
    assert dead.owners[0].source.path == "weights"
    assert dead.owners[0].allocated_bytes == sum(tensor.numel() for tensor in held)
    assert found.retries.ooms == 1


@pytest.mark.parametrize("when", ["later", "initialised"])
def test_recording_that_begins_before_torch_takes_memory_is_exact(tmp_path, when):
    """As that of an unchanged program does, which loads its model inside the first scope."""
    (finished,) = run_together([Program("first_use", when, tmp_path)], timeout=120)
    assert finished.returncode == 0, finished.output
    found = memory(only_trace(tmp_path))
    assert found.allocated_peak.moment.allocated_bytes == 35 * MIB
    assert [(row.source.path, row.allocated_bytes) for row in found.base.owners] == [("request/load", 30 * MIB)]
