"""What an event pair costs is measured on the machine, once, and without being in anybody's way."""

import time

import pytest
import torch

from gpu.recorded import assert_healthy, recorded
from gpu.spinning import calibrate, spin

pytestmark = [pytest.mark.gpu, pytest.mark.real_gpu]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The trace of a recording that is long enough for it."""
    calibrate()
    torch.cuda.synchronize()
    with recorded(tmp_path_factory.mktemp("first")) as recording:
        for _ in range(150):
            spin(200)
            time.sleep(0.01)
    return recording.trace


def test_the_figures_add_up(first):
    timed = first.meta["event_pair"][str(torch.cuda.current_device())]
    assert 0 <= timed["empty_ns"] < timed["one_ns"] < timed["many_ns"]
    assert timed["many"] > 1
    assert_healthy(first)


def test_the_reader_takes_the_cost_from_them(first):
    """On every GPU so far it was 4 to 6 us."""
    from wanhook.analysis.span_classes import pair_cost

    cost = pair_cost(first.meta, torch.cuda.current_device())
    assert cost.measured
    assert 2_500 <= cost.ns <= 9_000


def test_a_later_recording_has_them_too(first, tmp_path):
    with recorded(tmp_path) as recording:
        spin(200)
        time.sleep(0.2)
    assert recording.trace.meta["event_pair"].keys() == first.meta["event_pair"].keys()
