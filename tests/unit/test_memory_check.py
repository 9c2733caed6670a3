"""The self-check in the memory analysis and in the report: exact, wrong somewhere, not claimed."""

import pytest

from made_allocator import MIB, MadeAllocator
from made_trace import TraceBuilder
from wanhook.analysis.memory import memory_of
from wanhook.report.build import build
from wanhook.report.terminal import render
from wanhook.tracefile.model import load


@pytest.fixture
def builder():
    return TraceBuilder()


def read(builder, tmp_path):
    """(memory of the one device, the RECORDING section in one line) of what the builder holds."""
    run = load(builder.save(tmp_path / "a.wanhook"))
    (memory,) = memory_of(run.traces)
    return memory, " ".join(render(build(run), sections=["recording"]).split())


def sample(builder, at, allocated):
    totals = dict.fromkeys(("allocated", "active", "requested"), allocated)
    builder.sample(at, reserved_bytes=20 * MIB, **totals)


def test_exact_at_every_sample_and_at_the_end(builder, tmp_path):
    device = MadeAllocator(builder)
    block = device.alloc(device.segment(20 * MIB, 100_000), 4 * MIB, 200_000)
    sample(builder, 300_000, 4 * MIB)
    device.free(block, 400_000)
    device.snapshot(500_000)
    memory, text = read(builder, tmp_path)
    assert (memory.check.places, memory.check.equal, memory.check.refused) == (2, 2, [])
    assert "Memory replay exact at 2 of 2 checks." in text


def test_first_place_that_is_wrong_is_named(builder, tmp_path):
    device = MadeAllocator(builder)
    device.alloc(device.segment(20 * MIB, 100_000), 4 * MIB, 200_000)
    for at, allocated in ((300_000, 4 * MIB), (400_000, 5 * MIB), (500_000, 6 * MIB)):
        sample(builder, at, allocated)
    memory, text = read(builder, tmp_path)
    assert (memory.check.places, memory.check.equal) == (3, 1)
    assert "exact at 1 of 3 checks" in text
    assert f"{4.0} MiB ({4 * MIB}), torch {5.0} MiB ({5 * MIB})" in text


def test_nothing_is_claimed_without_a_first_state(builder, tmp_path):
    device = MadeAllocator(builder, begin=False)
    device.alloc(device.segment(20 * MIB, 100_000, sequence=7), 4 * MIB, 200_000, sequence=8)
    sample(builder, 300_000, 4 * MIB)
    memory, text = read(builder, tmp_path)
    assert memory.check.places == 0
    assert "Memory figures are not claimed to be exact on rank 0; MEMORY says why." in text
    assert memory.inexact == ["no snapshot tells what was allocated before the recording"]


def test_events_that_contradict_the_replay_are_told(builder, tmp_path):
    device = MadeAllocator(builder)
    segment = device.segment(20 * MIB, 100_000)
    device.alloc(segment, 4 * MIB, 200_000)
    builder.alloc(segment, 4 * MIB, 300_000)
    memory, text = read(builder, tmp_path)
    why, left_out = memory.inexact
    assert left_out.startswith("peaks leave out the ")
    # What comes behind is no peak and no end, and both places of the report say so.
    assert (memory.allocated_peak.moment.allocated_bytes, memory.end_known) == (0, False)
    assert "Events contradict the memory replay on rank 0" in text.split("SCOPES")[0]
    assert why.startswith("events contradict the replay (1, the first after 0.000 s: ")


# The CPU, against the counters of the recorder's own allocator --------------------------------------------------------


def cpu(counted, pause=False):
    """Two allocations and a free between the first two samples, one allocation between the next two."""
    builder = TraceBuilder(device="cpu")
    samples = iter(zip((100, 500, 900), counted, strict=True))

    def count():
        at, (allocated, freed) = next(samples)
        builder.sample(at, device_allocs=allocated, device_frees=freed)

    count()
    builder.alloc(0x1000, 64, 200)
    builder.alloc(0x2000, 64, 300)
    builder.free(0x1000, 0, 400, completed=400)
    count()
    if pause:
        builder.gate(600, False)
        builder.gate(800, True)
    builder.alloc(0x3000, 64, 850)
    count()
    return builder


def test_cpu_is_exact_when_the_counters_agree(tmp_path):
    memory, text = read(cpu([(7, 3), (9, 4), (10, 4)]), tmp_path)
    assert (memory.check.places, memory.check.equal, memory.check.first_difference) == (2, 2, None)
    assert "Memory replay exact at 2 of 2 checks." in text


def test_cpu_event_that_is_missing_is_told(tmp_path):
    memory, text = read(cpu([(7, 3), (9, 5), (12, 5)]), tmp_path)
    wrong = memory.check.first_difference
    assert (memory.check.places, memory.check.equal) == (2, 0)
    assert (wrong.what, wrong.ours, wrong.torchs) == ("frees", 1, 2)
    assert "first wrong after 0.000 s: frees 1, torch 2." in text


def test_cpu_pause_is_no_place(tmp_path):
    memory, _ = read(cpu([(7, 3), (9, 4), (99, 55)], pause=True), tmp_path)
    assert (memory.check.places, memory.check.equal, memory.check.not_claimed) == (1, 1, 1)
