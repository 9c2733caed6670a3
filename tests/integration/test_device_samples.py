"""Device samples and topology as a recording has them, from a made-up NVML that is loaded by the true one's name."""

import os
import subprocess
from types import SimpleNamespace

import pytest

from native_programs import compile_library
from wanhook.tracefile.model import Trace


@pytest.fixture
def sampled(native_program, tmp_path):
    """A function: what the made-up NVML is compiled with -> what half a minute with it left in the file. Without
    ``library`` there is none that can be loaded, also where the machine has one."""
    program = native_program("device_samples")

    def sampled(*defined, library=True):
        directory = tmp_path / "-".join(("nvml", *defined))
        directory.mkdir()
        if library:
            compile_library("nvml", directory / "libnvidia-ml.so.1", defined)
        else:
            (directory / "libnvidia-ml.so.1").write_text("no library\n" * 100)
        trace = tmp_path / f"{directory.name}.wanhook"
        done = subprocess.run(
            [program, trace], env={**os.environ, "LD_LIBRARY_PATH": str(directory)}, capture_output=True, timeout=120
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        read = Trace(trace)
        assert read.health.damage == []
        return SimpleNamespace(samples=read.device_samples, meta=read.meta)

    return sampled


def test_samples_of_the_device_in_use(sampled):
    found = sampled()
    # A sample takes microseconds here; only a machine that stands still makes them fewer.
    assert 5 <= len(found.samples) <= 30
    assert set(found.samples["device"]) == {3}
    assert set(found.samples["valid"]) == {15}
    assert found.samples["sm_clock"].tolist() == [1980 - 10 * number for number in range(len(found.samples))]
    alike = found.samples[["memory_clock", "throttle", "power", "temperature"]]
    assert {row.item() for row in alike} == {(3201, 4, 612_345, 64)}
    assert (found.samples["cost"] > 0).all()
    assert "notes" not in found.meta


def test_topology_is_written_once(sampled):
    assert sampled().meta["gpus"] == {
        "3": {
            "pci_bus_id": "0000:1B:00.0",
            "uuid": "GPU-bbbb",
            "pcie": {"generation": 5, "width": 8, "max_generation": 5, "max_width": 16},
            "max_sm_clock": 1980,
            "power_limit": 700_000,
            "slowdown_temperature": 89,
            "nvlinks": 3,
            "peers": {
                "GPU-aaaa": {"nvlink": True, "path": "same NUMA node"},
                "GPU-cccc": {"nvlink": False, "path": "across NUMA nodes"},
            },
        }
    }


def test_name_of_the_function_before_driver_535(sampled):
    assert set(sampled("FAKE_OLD").samples["throttle"]) == {0x20}


def test_what_cannot_be_read_is_left_out_and_noted_once(sampled):
    found = sampled("FAKE_NO_POWER")
    assert len(found.samples) > 1
    assert set(found.samples["valid"]) == {1 | 2 | 8}
    assert set(found.samples["power"]) == {0}
    assert found.meta["notes"] == ["NVML does not tell of device 3: power."]


def test_slow_answers_are_asked_for_less_often(sampled):
    found = sampled("FAKE_SLOW")
    # Four questions of 20 ms or more: the next sample comes 16 s later or more.
    assert 1 <= len(found.samples) <= 2
    assert (found.samples["cost"] >= 80_000_000).all()
    assert found.meta["gpus"]["3"]["uuid"] == "GPU-bbbb"


@pytest.mark.parametrize(
    ("defined", "library", "note"),
    [
        ((), False, "GPU clocks, power and temperature: NVML cannot be loaded on this machine."),
        (("FAKE_BROKEN",), True, "GPU clocks, power and temperature: NVML cannot be loaded on this machine."),
        (("FAKE_EMPTY",), True, "GPU clocks, power and temperature of device 3: NVML does not know it."),
    ],
)
def test_without_an_answer_there_is_one_note_and_nothing_else(sampled, defined, library, note):
    found = sampled(*defined, library=library)
    assert len(found.samples) == 0
    assert "gpus" not in found.meta
    assert found.meta["notes"] == [note]
