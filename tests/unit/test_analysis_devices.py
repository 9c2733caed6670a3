"""Device samples as figures and as sentences."""

import orjson
import pytest

from made_trace import TraceBuilder
from wanhook.analysis.device_remarks import device_remarks
from wanhook.analysis.device_state import device_states
from wanhook.report.as_json import as_json
from wanhook.report.build import build
from wanhook.report.terminal import render
from wanhook.tracefile.model import load

SECOND = 1_000_000_000
FULL = {"sm_clock": 1980, "memory_clock": 3201, "power": 500_000, "temperature": 60}


def rank_file(directory, rank=0, *, samples=(), gpu=None, world=2, group=True):
    """A request from second 1 to 9; `samples` are fields by second."""
    builder = TraceBuilder(rank=rank, world_size=world, device_index=rank)
    if group:
        builder.group("0", tuple(range(world)), rank=rank)
        builder.collective("alltoall_", 2 * SECOND, returned=3 * SECOND)
    builder.scope("request", SECOND, 9 * SECOND, gpu=(SECOND, 9 * SECOND))
    for second, fields in samples:
        builder.device_sample(second * SECOND, **{**FULL, **fields})
    if gpu:
        builder.meta({"gpus": {str(rank): gpu}})
    builder.end(10 * SECOND)
    builder.save(directory / f"rank{rank:05d}-{rank}-0.wanhook")


def read(directory):
    traces = load(directory).traces
    states = device_states(traces)
    return states, {remark.kind: remark for remark in device_remarks(traces, states)}


def test_nothing_is_said_of_a_gpu_at_full_clocks(tmp_path):
    rank_file(tmp_path, samples=[(second, {}) for second in range(10)], gpu={"slowdown_temperature": 89})
    (state,), remarks = read(tmp_path)
    assert remarks == {}
    assert (state.samples, state.loaded) == (10, 8)
    assert (state.sm_clock_max, state.sm_clock_p50, state.sm_clock_min, state.slow_share) == (1980, 1980, 1980, 0)
    assert (state.power_max, state.temperature_max, state.temperature_limit) == (500_000, 60, 89)


def test_clocks_that_fall_under_load(tmp_path):
    low = {"sm_clock": 1400, "throttle": 0x4 | 0x20}
    rank_file(tmp_path, samples=[(second, low if second in (3, 4) else {"throttle": 0x2}) for second in range(1, 9)])
    (state,), remarks = read(tmp_path)
    assert (state.sm_clock_min, state.slow_share) == (1400, 0.25)
    assert state.throttled == {"power cap": 0.25, "thermal, by the driver": 0.25}
    assert "fell to 1400 MHz, 29% below the 1980 MHz seen; 25% of 8 samples" in remarks["clock"].text
    assert "power cap in 25%; thermal, by the driver in 25% of samples." in remarks["throttled"].text
    assert remarks.keys() == {"clock", "throttled"}


def test_low_clocks_without_load_explain_nothing(tmp_path):
    idle = {"sm_clock": 345, "throttle": 0x1}
    samples = [(0, {"sm_clock": 345}), (2, idle), (3, {}), (4, {}), (10, {"sm_clock": 345, "throttle": 0x8})]
    rank_file(tmp_path, samples=samples)
    (state,), remarks = read(tmp_path)
    assert (state.loaded, state.sm_clock_min) == (2, 1980)
    assert remarks == {}


def test_values_that_were_not_read_do_not_count(tmp_path):
    nothing = {"valid": 0, "sm_clock": 0, "temperature": 0, "power": 0}
    rank_file(tmp_path, samples=[(2, {}), (3, {}), (4, nothing), (5, nothing)])
    (state,), remarks = read(tmp_path)
    assert (state.samples, state.sm_clock_min, state.slow_share) == (4, 1980, 0)
    assert remarks == {}


@pytest.mark.parametrize(("hottest", "said"), [(83, False), (84, True), (91, True)])
def test_temperature_near_the_limit(tmp_path, hottest, said):
    samples = [(2, {}), (3, {"temperature": hottest})]
    rank_file(tmp_path, samples=samples, gpu={"slowdown_temperature": 89, "max_temperature": 95})
    _, remarks = read(tmp_path)
    assert ("temperature" in remarks) == said


@pytest.mark.parametrize(("clock", "said"), [(1900, False), (1800, True)])
def test_rank_on_a_slower_gpu(tmp_path, clock, said):
    rank_file(tmp_path, 0, samples=[(2, {}), (3, {})])
    rank_file(tmp_path, 1, samples=[(2, {"sm_clock": clock}), (3, {"sm_clock": clock})])
    _, remarks = read(tmp_path)
    assert remarks.keys() == ({"slow gpu"} if said else set())
    if said:
        assert "rank 1 under load lies 9% below that of rank 0 (medians 1800 and 1980 MHz)" in remarks["slow gpu"].text
        assert remarks["slow gpu"].ranks == [1]


def test_report_shows_it_in_its_health_part_and_as_json(tmp_path):
    rank_file(tmp_path, 0, samples=[(2, {}), (3, {})])
    rank_file(tmp_path, 1, samples=[(2, {"sm_clock": 1500}), (3, {"sm_clock": 1500, "cost": 70})])
    report = build(load(tmp_path))
    health = " ".join(render(report).split("SCOPES")[0].split())
    assert "! Rank 1: The SM clock of rank 1 under load lies 24% below that of rank 0" in health
    devices = orjson.loads(as_json(report))["devices"]
    assert [(device["rank"], device["sm_clock_p50"], device["cost_max_ns"]) for device in devices] == [
        (0, 1980, 0),
        (1, 1500, 70),
    ]


def topology(own, peer, nvlink, **more):
    return {"uuid": own, "peers": {peer: {"nvlink": nvlink, "path": "host bridge"}, "GPU-x": {"nvlink": False}}, **more}


@pytest.mark.parametrize(("nvlink", "group", "said"), [(True, True, False), (False, True, True), (False, False, False)])
def test_pcie_between_ranks_that_communicate(tmp_path, nvlink, group, said):
    rank_file(tmp_path, 0, gpu=topology("GPU-a", "GPU-b", nvlink), group=group)
    rank_file(tmp_path, 1, gpu=topology("GPU-b", "GPU-a", nvlink), group=group)
    states, remarks = read(tmp_path)
    assert [state.uuid for state in states] == ["GPU-a", "GPU-b"]
    assert remarks.keys() == ({"no nvlink"} if said else set())
    if said:
        assert remarks["no nvlink"].text.endswith("they go over PCIe: 0 and 1 (host bridge).")
        assert remarks["no nvlink"].ranks == [0, 1]


def test_half_a_pcie_link(tmp_path):
    rank_file(tmp_path, gpu={"pcie": {"generation": 1, "max_generation": 5, "width": 8, "max_width": 16}})
    (state,), remarks = read(tmp_path)
    assert (state.pcie_generation, state.pcie_max_generation) == (1, 5)
    assert remarks["pcie width"].text == "The PCIe link of the GPU has 8 lanes, of 16 that it could have."
    assert remarks.keys() == {"pcie width"}


@pytest.mark.parametrize("gpus", [[], {"0": 3}, {"x": {}}, {"0": {"peers": [1], "pcie": 7, "uuid": 5}}, {"٣": {}}])
def test_damaged_meta_does_no_harm(tmp_path, gpus):
    builder = TraceBuilder()
    builder.meta({"gpus": gpus})
    builder.device_sample(5, **FULL)
    builder.device_sample(6, device=1, valid=15)
    builder.device_sample(7, device=1, valid=15)
    builder.save(tmp_path / "a.wanhook")
    states, remarks = read(tmp_path)
    assert [(state.samples, state.uuid) for state in states if state.device == 0] == [(1, None)]
    assert remarks == {}
