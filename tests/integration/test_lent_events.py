"""What the resolver makes of events that it does not own: tests/native/lent_events.cpp, on a made-up GPU."""

import subprocess

import pytest

import wanhook


def near(expected: list[int]):
    """Times are brought to ticks and back: a nanosecond or two may be lost."""
    return pytest.approx(expected, rel=0, abs=2)


def test_lent_events_become_spans(native_program, tmp_path):
    """Their owners are let go as soon as the span is written; the program checks that itself."""
    file = tmp_path / "rank00000-1-0.wanhook"
    done = subprocess.run([native_program("lent_events"), file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "lent_events: every scenario passed"
    calls = wanhook.load(file).traces[0].collectives
    timed = calls[calls["gpu_begin"] >= 0]
    lengths = (timed["gpu_end"] - timed["gpu_begin"]).tolist()
    assert lengths == near([30_000, 60_000, 20_000, 10_000, 40_000, 70_000, *[500] * 1000])
    begins = (timed["gpu_begin"] - timed["gpu_begin"][0]).tolist()
    assert begins[:6] == near([0, 100_000, 50_000, 200_000, 205_000, 400_000])
