"""Loading, the record of a request and the doctor on a GPU, against torch's own counters."""

import pytest
import torch

import wanhook
from gpu.recorded import only_trace, recorded
from wanhook import loading
from wanhook.analysis.inference import inference_records
from wanhook.analysis.loading import load_table
from wanhook.doctor import hooks
from wanhook.doctor.line import FAIL
from wanhook.doctor.probe import probe
from wanhook.tracefile.model import load

pytestmark = pytest.mark.gpu

MIB = 1 << 20


def test_what_a_load_brings_to_the_gpu(tmp_path, quiet_allocator):
    torch.save(torch.zeros(24 * MIB, dtype=torch.uint8), tmp_path / "weights.pth")
    with recorded(tmp_path / "run"):
        before = torch.cuda.memory_allocated()
        with loading.measured("load_vae", checkpoint=tmp_path / "weights.pth"):
            weights = torch.load(tmp_path / "weights.pth", weights_only=True).cuda()
        grown = torch.cuda.memory_allocated() - before
    (row,) = load_table([only_trace(tmp_path / "run")])
    assert row.gpu_bytes == grown >= weights.numel()
    assert row.weights_bytes == (tmp_path / "weights.pth").stat().st_size


def test_peaks_of_a_request_are_torch_s(tmp_path, quiet_allocator):
    with recorded(tmp_path / "run"):
        kept = torch.empty(30 * MIB, dtype=torch.uint8, device="cuda")
        early = torch.empty(200 * MIB, dtype=torch.uint8, device="cuda")
        del early
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with wanhook.trace("request", seed=3, sample_solver="a prompt"):
            for size in (5_000_001, 40 * MIB, 700):
                kept = [kept, torch.empty(size, dtype=torch.uint8, device="cuda")]
            torch.cuda.synchronize()
        peaks = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
        late = torch.empty(300 * MIB, dtype=torch.uint8, device="cuda")
    assert late.numel() == 300 * MIB
    (record,) = inference_records(load(tmp_path / "run"))
    assert (record.reserved_peak, record.allocated_peak) == peaks
    assert record.settings == {"seed": 3, "solver": "other"}
    assert record.stages["request_total"].gpu_s > 0


def test_the_doctor_records_on_this_machine():
    found = probe()
    assert found["device"]["type"] == "cuda"
    assert found["attached"]["cuda_memory"] is True
    assert found["not_measured"] == {}
    assert not [line for line in hooks.lines(found, {}) if line.status == FAIL]
