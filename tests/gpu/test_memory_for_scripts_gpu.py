"""wanhook.memory and the watermark against a real GPU."""

import pytest
import torch

import wanhook
from gpu.processes import Program, running
from gpu.recorded import recorded

pytestmark = pytest.mark.gpu

MIB = 1 << 20


def test_info_is_what_torch_and_the_driver_say(quiet_allocator):
    keep = [torch.empty(size * MIB, dtype=torch.uint8, device="cuda") for size in (3, 40, 50, 60)]
    del keep[2]
    found, stats = wanhook.memory.info(), torch.cuda.memory_stats()
    for name in ("allocated", "reserved", "active", "requested"):
        assert getattr(found, name) == stats[f"{name}_bytes.all.current"]
    assert found.device == torch.cuda.current_device()
    assert found.largest_free_block >= 50 * MIB
    assert (found.device_free, found.device_total) == torch.cuda.mem_get_info()
    del keep


@pytest.mark.parametrize(
    "settings",
    ["", "expandable_segments:True", "max_split_size_mb:64", "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]"],
)
def test_check_foretells_what_an_allocation_does(settings):
    program = Program("predictions", 1500, environment={"PYTORCH_CUDA_ALLOC_CONF": settings} if settings else {})
    with running(program):
        answer = program.finish(timeout=120).answer
    assert answer["wrong"] == []
    assert all(answer["verdicts"].get(verdict, 0) > 10 for verdict in ("free block", "device", "after freeing", "no"))
    assert answer["cached"] > 0
    assert (answer["given_back"], answer["left"]) == (answer["cached"], 0)


def test_watermark_of_a_real_sample(tmp_path, quiet_allocator, monkeypatch, capfd):
    free, total = torch.cuda.mem_get_info()
    share = 1 - free / total + 0.01
    monkeypatch.setenv("WANHOOK_WARN_AT", f"{share:.6f}")
    with recorded(tmp_path) as recording, wanhook.trace("below"), wanhook.trace("above"):
        keep = torch.empty(int(0.03 * total), dtype=torch.uint8, device="cuda")
    del keep
    trace = recording.trace
    marks = [trace.mark_args[row] for row, name in enumerate(trace.marks["name"]) if "watermark" in trace.strings[name]]
    assert [mark["path"] for mark in marks] == ["below/above", "below"]
    assert all(share <= mark["used"] <= share + 0.2 for mark in marks)
    assert capfd.readouterr().err.count("of the GPU's memory is in use in stage") == 2
