"""Twelve hours of made-up clocks: the map of GPU times stays within the error that it states, and that stays small."""

from dataclasses import dataclass

import numpy as np
import pytest

from wanhook.tracefile.clock import Clock
from wanhook.tracefile.format import RECORDS, ClockFlags, Kind

SECOND = 1_000_000_000
HOURS = 12 * 3600
START, START_TICK, START_REALTIME = 7_000 * SECOND, 3 * 10**15, 1_700_000_000 * SECOND
PERIOD = 0.4  # ns a tick; ticks are the steady clock here, CLOCK_MONOTONIC and the GPU stray from it
US = 1_000


@dataclass
class Day:
    """True times are ns of the tick counter from the start; `monotonic` and `gpu` map them (float64[n] both)."""

    seconds: int
    monotonic: object
    gpu: object
    kept: object = None  # bool[n] for the anchors at second 0..n-1; None: all
    realtime: object = None
    seed: int = 0

    def anchors(self) -> np.ndarray:
        random = np.random.default_rng(self.seed)
        at = np.arange(self.seconds) * float(SECOND) + random.uniform(0, 10_000_000, self.seconds)
        if self.kept is not None:
            at = at[self.kept(np.arange(self.seconds))]
        return np.concatenate([self._host(at, random), self._gpu(at + 50_000, random)])

    def _host(self, at, random) -> np.ndarray:
        rows = self._rows(at, ClockFlags.HOST, -1, *random.uniform(20, 60, (2, len(at))))
        rows["monotonic"] = START + np.rint(self.monotonic(at))
        rows["realtime"] = START_REALTIME + np.rint(self.monotonic(at))
        if self.realtime is not None:
            rows["realtime"] += np.rint(self.realtime(at)).astype(np.int64)
        return rows

    def _gpu(self, at, random) -> np.ndarray:
        """Brackets as seen on H200: 7 to 16 us, now and then far wider, the event anywhere inside."""
        after = random.uniform(3_500, 8_000, len(at))
        after[random.random(len(at)) < 0.1] += 200_000
        rows = self._rows(at, ClockFlags.GPU, 0, random.uniform(3_500, 8_000, len(at)), after)
        rows["gpu"] = chained(self.gpu(at))
        return rows

    @staticmethod
    def _rows(at, flag, device, before, after) -> np.ndarray:
        rows = np.zeros(len(at), RECORDS[Kind.CLOCK_ANCHOR])
        rows["flags"], rows["device"] = flag, device
        rows["tick"], rows["tick_after"] = ticks(at - before), ticks(at + after)
        return rows

    def read(self) -> tuple[Clock, np.ndarray]:
        header = {"start_tick": START_TICK, "start_monotonic": START, "start_realtime": START_REALTIME,
                  "tick_period": PERIOD * (1 + 2e-6)}  # fmt: skip
        rows = self.anchors()
        return Clock(header, rows), rows

    def off(self, clock: Clock, rows: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(by how much GPU times map wrongly, by how much at most as the clock says), ns, at true times."""
        gpu = rows[rows["flags"] == ClockFlags.GPU]["gpu"]
        references = np.sort(gpu)
        true = self.gpu(times)
        # A span is measured against the newest reference, and the driver tells that in 32-bit milliseconds.
        number = np.maximum(np.searchsorted(self.gpu(reference_times(self, rows)), true) - 1, 0)
        base = self.gpu(reference_times(self, rows))[number]
        seen = references[number] + np.rint(np.float32((true - base) / 1e6).astype(float) * 1e6).astype(np.int64)
        found = clock.gpu(0, seen)
        return np.abs(found - START - self.monotonic(times)), clock.gpu_error(0, found)


def reference_times(day: Day, rows: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(day.seed)
    at = np.arange(day.seconds) * float(SECOND) + random.uniform(0, 10_000_000, day.seconds)
    return (at if day.kept is None else at[day.kept(np.arange(day.seconds))]) + 50_000


def ticks(at: np.ndarray) -> np.ndarray:
    return (START_TICK + np.rint(at / PERIOD)).astype(np.uint64)


def chained(times: np.ndarray) -> np.ndarray:
    """Times of the references as the recorder adds them up: each step in 32-bit milliseconds."""
    steps = np.float32(np.diff(times) / 1e6).astype(float) * 1e6
    return np.concatenate([[0], np.cumsum(np.rint(steps))]).astype(np.int64)


def steady(ppm: float):
    return lambda at: at * (1 + ppm * 1e-6)


def breathing(ppm: float, swing: float, period_s: float):
    """A rate that swings as with a GPU's temperature; `swing` in ppm."""
    omega = 2 * np.pi / (period_s * SECOND)
    return lambda at: at * (1 + ppm * 1e-6) + swing * 1e-6 / omega * (1 - np.cos(omega * at))


def slewed(every_s: int, ppm: float, seed: int = 3):
    """CLOCK_MONOTONIC under NTP: a new rate, within +- ppm, each `every_s` seconds."""
    rates = np.random.default_rng(seed).uniform(-ppm, ppm, HOURS // every_s + 2) * 1e-6
    knots = np.arange(len(rates) + 1) * float(every_s * SECOND)
    gained = np.concatenate([[0], np.cumsum(rates * every_s * SECOND)])
    return lambda at: at + np.interp(at, knots, gained)


DAYS = {
    "steady": Day(HOURS, steady(0), steady(-1)),
    "warming up and down": Day(HOURS, steady(3), breathing(-1, 0.5, 3600)),
    "slewed by NTP": Day(HOURS, slewed(64, 20), breathing(-1, 0.2, 1800)),
    "a tenth of the anchors lost": Day(
        HOURS, steady(0), breathing(2, 0.3, 3600), kept=lambda n: np.random.default_rng(9).random(len(n)) > 0.1
    ),
    "nothing for five minutes": Day(
        HOURS, slewed(1024, 0.25), breathing(-1, 0.2, 7200), kept=lambda n: (n < 20_000) | (n > 20_300)
    ),
    "ten minutes": Day(600, slewed(64, 20), breathing(-1, 0.3, 900)),
    "five seconds": Day(5, steady(0), steady(-1)),
}


@pytest.mark.parametrize("name", DAYS)
def test_gpu_times_stay_within_the_stated_error(name):
    day = DAYS[name]
    clock, rows = day.read()
    times = np.sort(np.random.default_rng(1).uniform(0.1, day.seconds - 0.5, 20_000)) * SECOND
    off, stated = day.off(clock, rows, times)
    assert (off <= stated + 100).all(), f"off by {off.max():.0f} ns, {(off > stated + 100).sum()} times beyond"
    assert np.percentile(stated, 99) <= 15 * US
    assert np.median(stated) <= 10 * US
    assert np.median(off) <= 3 * US


@pytest.mark.parametrize("name", DAYS)
def test_the_end_is_as_exact_as_the_beginning(name):
    day = DAYS[name]
    clock, rows = day.read()
    part = day.seconds / 10
    ends = [np.linspace(low, high, 5_000) * SECOND for low, high in ((0.1, part), (9 * part, day.seconds - 0.5))]
    begin, end = (np.percentile(day.off(clock, rows, times)[0], 95) for times in ends)
    assert end <= begin + 3 * US


def test_references_that_round_all_one_way_are_followed():
    """The chain itself may stray by a millisecond in twelve hours: anchors tie each reference to the host."""
    day = Day(HOURS, steady(0), steady(0.0299))
    rows = day.anchors()
    gpu = rows[rows["flags"] == ClockFlags.GPU]["gpu"]
    rows["gpu"][rows["flags"] == ClockFlags.GPU] = gpu + np.arange(len(gpu)) * 30
    clock, _ = Day.read(day)
    header_clock = Clock({"start_tick": START_TICK, "start_monotonic": START, "start_realtime": START_REALTIME,
                          "tick_period": PERIOD}, rows)  # fmt: skip
    at = reference_times(day, rows)
    for made, shown in ((clock, gpu), (header_clock, rows[rows["flags"] == ClockFlags.GPU]["gpu"])):
        off = np.abs(made.gpu(0, shown) - START - day.monotonic(at))
        assert off.max() <= 10 * US


def test_unix_time_follows_steps_and_slews():
    """Within a second of a step it may be wrong by the step; elsewhere it is exact."""
    step = 2_000_000  # ns, at half an hour
    day = Day(3600, slewed(64, 20), steady(-1), realtime=lambda at: np.where(at < 1800 * SECOND, 0, step))
    clock, _ = day.read()
    times = np.linspace(1, 3590, 5_000) * SECOND
    true = START_REALTIME + day.monotonic(times) + day.realtime(times)
    off = np.abs(clock.to_realtime(START + np.rint(day.monotonic(times)).astype(np.int64)) - true)
    near = np.abs(times - 1800 * SECOND) < 1.1 * SECOND
    assert off[~near].max() <= 1 * US
    assert off.max() <= step
