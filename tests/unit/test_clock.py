"""Ticks and GPU times on CLOCK_MONOTONIC: exact at anchors, never backwards, unmoved by damaged anchors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanhook.tracefile.clock import LIMIT, Clock, PiecewiseLinear
from wanhook.tracefile.format import RECORDS, ClockFlags, Kind

SECOND = 1_000_000_000
START = 7_000 * SECOND
START_TICK = 3 * 10**15
START_REALTIME = 1_700_000_000 * SECOND
PERIOD = 0.4


def header(**fields) -> dict:
    usual = {
        "start_tick": START_TICK,
        "start_monotonic": START,
        "start_realtime": START_REALTIME,
        "tick_period": PERIOD,
    }
    return {**usual, **fields}


def tick(at: float, period: float = PERIOD) -> int:
    return START_TICK + round(at / period)


def host_anchor(at: int, *, width: int = 40, period: float = PERIOD, shift: int = 0) -> dict:
    ticks = {"tick": tick(at - width // 2, period), "tick_after": tick(at + width // 2, period)}
    return {
        "flags": ClockFlags.HOST,
        "device": -1,
        "monotonic": START + at,
        "realtime": START_REALTIME + at + shift,
        **ticks,
    }


def gpu_anchor(at: int, *, gpu: int, before: int = 4_000, after: int = 4_000, device: int = 0) -> dict:
    return {
        "flags": ClockFlags.GPU,
        "device": device,
        "gpu": gpu,
        "tick": tick(at - before),
        "tick_after": tick(at + after),
    }


def anchors(*wanted: dict) -> np.ndarray:
    rows = np.zeros(len(wanted), RECORDS[Kind.CLOCK_ANCHOR])
    for row, fields in zip(rows, wanted, strict=True):
        for name, value in fields.items():
            row[name] = value
    return rows


def clock(*wanted: dict, **fields) -> Clock:
    return Clock(header(**fields), anchors(*wanted))


def ns(made: Clock, at: float, period: float = PERIOD) -> int:
    return int(made.ns(np.array([tick(at, period)], np.uint64))[0]) - START


# Ticks.


def test_without_anchors_the_header_serves():
    assert ns(clock(), 12_345_678) == 12_345_678


def test_without_a_period_a_tick_counts_as_a_nanosecond():
    for unknown in (0.0, -1.0, 1e300):
        made = clock(tick_period=unknown)
        assert made.ns(np.array([START_TICK + 1000], np.uint64)).tolist() == [START + 1000]


def test_one_anchor_and_the_header_s_period():
    made = clock(host_anchor(SECOND, period=PERIOD), start_monotonic=5)
    assert ns(made, SECOND) == SECOND
    assert ns(made, 3 * SECOND) == 3 * SECOND


def test_anchors_supersede_the_period_and_neighbours_go_on_outside():
    true = 0.4002
    made = clock(*(host_anchor(n * SECOND, period=true) for n in range(1, 6)))
    for at in (0, SECOND, 2.5 * SECOND, 5 * SECOND, 60 * SECOND):
        assert abs(ns(made, at, true) - at) <= 2 + at / SECOND  # ticks are whole numbers


def test_a_rate_that_changes_is_followed():
    fast = [host_anchor(n * SECOND) for n in range(5)]
    slow = [host_anchor(4 * SECOND + n * (SECOND + 50_000)) for n in range(1, 5)]
    for n, anchor in enumerate(slow, 1):
        anchor["tick"], anchor["tick_after"] = tick((4 + n) * SECOND - 20), tick((4 + n) * SECOND + 20)
    made = clock(*fast, *slow)
    assert ns(made, 3.5 * SECOND) == 3.5 * SECOND
    assert abs(ns(made, 6 * SECOND) - (6 * SECOND + 100_000)) <= 1
    assert abs(ns(made, 10 * SECOND) - (10 * SECOND + 300_000)) <= 50


def test_close_anchors_do_not_spoil_the_slope_outside():
    made = clock(*(host_anchor(n * SECOND) for n in range(5)), host_anchor(4 * SECOND + 2_000, width=400))
    wrong = anchors(*(host_anchor(n * SECOND) for n in range(5)), host_anchor(4 * SECOND + 2_000))
    wrong["monotonic"][-1] += 60
    assert abs(ns(Clock(header(), wrong), 5 * SECOND) - 5 * SECOND) < 200
    assert abs(ns(made, 5 * SECOND) - 5 * SECOND) < 200


def test_an_anchor_of_an_interrupted_thread_is_left_out():
    wide = host_anchor(2 * SECOND, width=800_000)
    wide["monotonic"] -= 390_000  # read right after the first tick
    made = clock(*(host_anchor(n * SECOND) for n in (0, 1, 3, 4)), wide)
    assert ns(made, 2 * SECOND) == 2 * SECOND


@pytest.mark.parametrize("field", ["tick", "tick_after", "monotonic"])
@pytest.mark.parametrize("value", [0, 1 << 40, 1 << 61, (1 << 63) - 1])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_damaged_host_anchor_is_left_out(field, value, place):
    rows = anchors(*(host_anchor(n * SECOND) for n in range(7)))
    rows[field][place] = value
    made = Clock(header(), rows)
    assert [ns(made, at * SECOND) for at in range(7)] == [at * SECOND for at in range(7)]


def test_damaged_anchors_are_noted():
    rows = anchors(*(host_anchor(n * SECOND) for n in range(7)), *gpu_anchors(7))
    rows["monotonic"][2] = rows["gpu"][9] = 1 << 50
    noted = {}
    Clock(header(), rows, noted.__setitem__)
    assert noted == {"host clock anchors that fit no clock": 1, "GPU clock anchors that fit no clock": 1}


def test_absurd_ticks_are_clipped():
    made = clock(*(host_anchor(n * SECOND) for n in range(3)))
    ticks = np.array([0, 1, 1 << 62, 1 << 63, (1 << 64) - 1], np.uint64)
    with np.errstate(all="raise"):
        found = made.ns(ticks)
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    assert (found <= LIMIT).all()


@given(
    st.floats(0.05, 20),
    st.lists(st.integers(1, 5 * SECOND), min_size=2, max_size=20),
    st.lists(st.integers(-SECOND, 100 * SECOND), min_size=2, max_size=50),
)
def test_a_steady_clock_is_found_again(period, gaps, times):
    made = clock(*(host_anchor(int(at), width=0, period=period) for at in np.cumsum(gaps)), tick_period=period)
    ticks = np.array([tick(at, period) for at in times], np.uint64)
    # A tick is `period` ns wide, and both ends of the slope are rounded to one.
    slack = 2 + period * (2 + 100 * SECOND / min(SECOND, sum(gaps[1:])))
    assert np.abs(made.ns(ticks) - START - np.array(times)).max() <= slack


@given(
    st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)), max_size=20),
    st.lists(st.integers(0, (1 << 64) - 1), min_size=2, max_size=50),
)
def test_the_map_never_runs_backwards(points, ticks):
    rows = anchors(*({"flags": ClockFlags.HOST, "tick": x, "tick_after": x, "monotonic": y} for x, y in points))
    with np.errstate(all="raise"):
        found = Clock(header(), rows).ns(np.sort(np.array(ticks, np.uint64)))
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 40)), min_size=1, max_size=20))
def test_knots_are_met_exactly(steps):
    x, y = np.cumsum(np.array(steps, np.int64), axis=0).T
    assert PiecewiseLinear(x, y, 1.0, 1.0)(x).tolist() == y.tolist()


# GPU times.

DRIFT = 0.999999  # GPU ns a host ns, as measured on real ones


def gpu_anchors(count: int, *, origin: int = 500, seed: int = 0, drift: float = DRIFT) -> list[dict]:
    """One a second: the event falls anywhere into brackets of 7 to 16 µs, now and then into a very wide one."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        before, after = (int(part) for part in random.integers(3_500, 8_000, 2))
        if n % 7 == 3:
            after += 300_000
        made.append(gpu_anchor(n * SECOND, gpu=round((n * SECOND - origin) * drift), before=before, after=after))
    return made


def test_gpu_times_follow_the_tight_brackets():
    made = clock(*(host_anchor(n * SECOND) for n in range(60)), *gpu_anchors(60))
    at = np.linspace(0, 59 * SECOND, 500).astype(np.int64)
    found = made.gpu(0, np.rint((at - 500) * DRIFT).astype(np.int64)) - START
    assert np.abs(found - at).max() < 2_500


def test_a_short_recording_keeps_gpu_lengths():
    """Two wide brackets close together say nothing about the rate: durations stay as the GPU counted them."""
    first = gpu_anchor(0, gpu=0, before=1_000, after=9_000)
    made = clock(
        host_anchor(0), host_anchor(SECOND), first, gpu_anchor(5_000_000, gpu=5_000_000, before=9_000, after=1_000)
    )
    found = made.gpu(0, np.array([1_000_000, 1_100_000]))
    assert abs(int(found[1] - found[0]) - 100_000) < 200


def test_devices_have_timelines_of_their_own():
    made = clock(host_anchor(0), host_anchor(SECOND), gpu_anchor(0, gpu=0), gpu_anchor(0, gpu=700, device=3))
    assert set(made.devices) == {0, 3}
    assert (made.gpu(0, np.array([1_000])) - made.gpu(3, np.array([1_000]))).tolist() == [700]
    assert made.gpu(1, np.array([1, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize("field", ["tick", "tick_after", "gpu"])
@pytest.mark.parametrize("value", [0, 1 << 40, 1 << 61])
def test_a_damaged_gpu_anchor_is_left_out(field, value):
    rows = anchors(*(host_anchor(n * SECOND) for n in range(20)), *gpu_anchors(20))
    rows[field][30] = value
    found = Clock(header(), rows).gpu(0, np.rint(np.arange(20) * SECOND * DRIFT).astype(np.int64) - 500) - START
    assert np.abs(found - np.arange(20) * SECOND).max() < 8_000


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 1 << 30), st.floats(0.9999, 1.0001), st.integers(-SECOND, SECOND))
def test_the_gpu_map_meets_every_bracket_and_never_runs_backwards(count, seed, drift, origin):
    wanted = gpu_anchors(count, seed=seed, drift=drift, origin=origin)
    made = clock(*(host_anchor(n * SECOND) for n in range(count + 1)), *wanted)
    gpu = np.array([anchor["gpu"] for anchor in wanted])
    found = made.gpu(0, gpu)
    low, high = (made.ns(np.array([anchor[name] for anchor in wanted], np.uint64)) for name in ("tick", "tick_after"))
    assert (found >= low).all()
    assert (found <= high).all()
    fine = made.gpu(0, np.linspace(gpu[0] - SECOND, gpu[-1] + SECOND, 2_000).astype(np.int64))
    assert (np.diff(fine) >= 0).all()


# Unix time.


def test_realtime_follows_a_step_of_the_wall_clock():
    made = clock(
        host_anchor(0), host_anchor(SECOND), host_anchor(2 * SECOND, shift=5_000), host_anchor(3 * SECOND, shift=5_000)
    )
    assert made.to_realtime(START) == START_REALTIME
    assert made.to_realtime(START + 2 * SECOND + 7) == START_REALTIME + 2 * SECOND + 7 + 5_000
    assert made.to_realtime(np.array([START, -1])).tolist() == [START_REALTIME, -1]


def test_realtime_without_anchors_follows_the_header():
    assert clock().to_realtime(START + 9) == START_REALTIME + 9
