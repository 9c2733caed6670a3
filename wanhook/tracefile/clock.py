"""Ticks and GPU times of a trace as int64 ns on the host's CLOCK_MONOTONIC.

Both maps are piecewise linear and never run backwards. Damaged anchors are left out, times that no clock can have
shown are clipped to [0, LIMIT]: nothing here overflows, warns or raises.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .format import ClockFlags

LIMIT = 1 << 61  # ns or ticks; sums and differences of two such values fit int64
SECOND = 1_000_000_000
BLOCK = 1 << 16  # values mapped at a time, so that temporaries stay in the cache
MAX_STEP = 1_000_000.0  # ns that an anchor may lie off the line of the others,
MAX_DRIFT = 1e-3  # and how far two clocks' rates may differ; beyond both it is damaged
DRIFT_CHANGE = 1e-7  # by how much two clocks' rates can differ from one knot to the next: 0.1 ppm
SLEW_CHANGE = 5e-7  # by how much NTP is taken to change the rate of CLOCK_MONOTONIC between two host anchors
UNKNOWN_DRIFT = 2e-6  # by how much the rates can differ where too little was seen to tell
GPU_WINDOW = 30 * SECOND  # one smoothed knot each; a GPU's drift is steady over that time
MAX_WINDOWS = 4096  # a damaged span must not cost time
GPU_MIN_SPAN = 8 * SECOND  # below it brackets are too wide to tell a drift: the rates count as equal

Note = Callable[[str, int], None]


def _bounded(values) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind == "u":
        return np.minimum(values, np.uint64(LIMIT)).astype(np.int64)
    return np.clip(values.astype(np.int64, copy=False), -LIMIT, LIMIT)


def _whole(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, -LIMIT, LIMIT)).astype(np.int64)


class PiecewiseLinear:
    """An increasing map int64 -> int64 through knots, with given slopes before the first and after the last.

    `x` and `y` are int64[n], n >= 1, strictly increasing, within [-LIMIT, LIMIT].
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, before: float, after: float):
        self.x, self.y = x, y
        self.slopes = np.concatenate([[before], np.diff(y) / np.diff(x), [after]])
        self._ceiling = np.append(y, LIMIT)  # rounding must not carry a value past the next knot

    @property
    def overall_slope(self) -> float:
        """From the first knot to the last."""
        x, y = self.x, self.y
        return float((y[-1] - y[0]) / (x[-1] - x[0])) if len(x) > 1 else float(self.slopes[0])

    def __call__(self, values) -> np.ndarray:
        """Map an int64 or uint64 array; the result is int64 of the same length within [0, LIMIT]."""
        values = np.asarray(values)
        out = np.empty(len(values), np.int64)
        for start in range(0, len(values), BLOCK):
            block = _bounded(values[start : start + BLOCK])
            piece = np.searchsorted(self.x, block, side="right")
            knot = np.maximum(piece - 1, 0)
            mapped = self.y[knot] + _whole((block - self.x[knot]) * self.slopes[piece])
            out[start : start + BLOCK] = np.clip(mapped, 0, self._ceiling[piece])
        return out


def _outer_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope at the last knot: to the nearest knot a second before it, because close neighbours are all noise."""
    near = int(np.searchsorted(y, y[-1] - SECOND, side="right")) - 1
    near = min(max(near, 0), len(y) - 2)
    return float((y[-1] - y[near]) / (x[-1] - x[near]))


def _through(x: np.ndarray, y: np.ndarray, slope: float) -> PiecewiseLinear:
    """Through all knots, going on at both ends as the neighbouring second went; `slope` serves a single knot."""
    if len(x) == 1:
        return PiecewiseLinear(x, y, slope, slope)
    return PiecewiseLinear(x, y, _outer_slope(-x[::-1], -y[::-1]), _outer_slope(x, y))


def _median_slope(x: np.ndarray, y: np.ndarray, known: float) -> float:
    """Slope of a line that a few wrong points cannot move; `known` where there are too few points to tell."""
    dx, dy = np.diff(x), np.diff(y)
    return float(np.median(dy[dx > 0] / dx[dx > 0])) if (dx > 0).sum() > 1 else known


def _agreeing(x: np.ndarray, y: np.ndarray, slope: float, slack: np.ndarray, unit: float = 1.0) -> np.ndarray:
    """Which points lie near the median line of that slope: within `slack` and what a clock can stray (bool[n]).

    `unit` of y, in ns.
    """
    if not len(x):
        return np.zeros(0, bool)
    along = (x - x[0]) * slope
    off = (y - y[0]) - along
    return np.abs(off - np.median(off)) <= slack + MAX_STEP / unit + MAX_DRIFT * np.abs(along - np.median(along))


def _increasing(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that lie strictly above all before them in both coordinates."""
    keep = np.ones(len(x), bool)
    for values in (x, y):
        keep[1:] &= values[1:] > np.maximum.accumulate(values)[:-1]
    return x[keep], y[keep]


def _brackets(anchors: np.ndarray, flag: ClockFlags, value: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ticks before and after, and the time that a clock showed between them, of the anchors that can be true."""
    before, after, shown = anchors["tick"], anchors["tick_after"], anchors[value]
    sound = ((anchors["flags"] & flag) != 0) & (before <= after) & (after < LIMIT) & (shown > -LIMIT) & (shown < LIMIT)
    order = np.argsort(shown[sound], kind="stable")
    return tuple(column[sound][order].astype(np.int64) for column in (before, after, shown))


def _note_left_out(anchors: np.ndarray, flag: ClockFlags, used: int, note: Note) -> None:
    name = "host" if flag is ClockFlags.HOST else "GPU"
    note(f"{name} clock anchors that fit no clock", int(((anchors["flags"] & flag) != 0).sum()) - used)


def host_clock(header: dict, anchors: np.ndarray, note: Note) -> PiecewiseLinear:
    """Ticks -> ns. With fewer than two good host anchors the header's tick period gives the slope."""
    period = header["tick_period"]
    if not 1e-6 < period < 1e6:
        period = 1.0
    before, after, y = _brackets(anchors, ClockFlags.HOST, "monotonic")
    width = after - before
    x = before + width // 2
    # Either rate can be wrong: the header's by damage, the median of the steps by anchors that are too close.
    slopes = (period, _median_slope(x, y, period))
    good = max((_agreeing(x, y, slope, (width // 2) * slope) for slope in slopes), key=np.count_nonzero)
    _note_left_out(anchors, ClockFlags.HOST, int(good.sum()), note)
    # An anchor during which the thread lost its processor is true but says little: its middle may be far off.
    good &= width <= 8 * np.median(width[good]) + 1 if good.any() else good
    x, y = _increasing(x[good], y[good])
    if not len(x):
        x, y = (_bounded(np.array([header[name]])) for name in ("start_tick", "start_monotonic"))
    return _through(x, y, period)


def _smooth(x: np.ndarray, middle: np.ndarray, width: np.ndarray, slope: float) -> tuple[PiecewiseLinear, np.ndarray]:
    """The GPU's drift: one knot a window, at the centre of its tightest fifth of brackets; `slope` serves a single one.

    And how far each knot can lie off the truth (float64[knots], in y): half the widest of those brackets.
    """
    span = int(x[-1] - x[0])
    windows = 1 if span < GPU_MIN_SPAN else min(max(2, span // GPU_WINDOW), MAX_WINDOWS, len(x))
    knots, errors = [], []
    for part in np.array_split(np.arange(len(x)), windows):
        tight = part[width[part] <= np.quantile(width[part], 0.2)]
        centre = [values[tight[0]] + _whole(np.mean(values[tight] - values[tight[0]])) for values in (x, middle)]
        knots.append(centre)
        errors.append(width[tight].max() / 2 + 1)
    kx, ky = np.array(knots, np.int64).T
    x, y = _increasing(kx, ky)
    return _through(x, y, slope), np.array(errors)[np.isin(kx, x)]


def _straying(knots: np.ndarray, errors: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How far off the truth the line through `knots` (int64[k], GPU ns), each off by `errors` (float64[k], ns), can be
    at the GPU times `at` (float64[n], ns)."""
    after = np.searchsorted(knots, at)
    before, after = np.clip(after - 1, 0, len(knots) - 1), np.clip(after, 0, len(knots) - 1)
    bent = (knots[after] - knots[before]) * (DRIFT_CHANGE / 4)  # at most so far does a bent line leave its chord
    outside = np.maximum(np.maximum(knots[0] - at, at - knots[-1]), 0)
    rate = UNKNOWN_DRIFT
    if len(knots) > 1:  # what the slope there can be off by, and what it can have changed since
        rate = DRIFT_CHANGE + 2 * errors[[0, 1, -2, -1]].max() / np.diff(knots)[[0, -1]].min()
    return np.maximum(errors[before], errors[after]) + bent + outside * rate


class GpuClock:
    """A device's GPU timeline -> ns, by way of ticks, and how far that can be off.

    Ticks and GPU drift steadily against one another; CLOCK_MONOTONIC is slewed, which the many host anchors follow and
    the few windows of the smooth drift could not. `anchors` (int64[n], GPU ns) can lie off the truth by `errors` (n).
    """

    def __init__(self, host: PiecewiseLinear, ticks: PiecewiseLinear, errors: np.ndarray):
        self._host, self._ticks = host, ticks
        self._at, self._errors = host(ticks.y), errors

    def __call__(self, values) -> np.ndarray:
        return self._host(self._ticks(values))

    def error(self, ns) -> np.ndarray:
        """ns (int64[n]) by which GPU times that were mapped to `ns` (int64[n]) can be off."""
        at, ns = self._at, _bounded(ns)
        after = np.searchsorted(at, ns)
        before, after = np.clip(after - 1, 0, len(at) - 1), np.clip(after, 0, len(at) - 1)
        outside = np.maximum(np.maximum(at[0] - ns, ns - at[-1]), 0)
        slewed = (at[after] - at[before]) * (SLEW_CHANGE / 4)
        return _whole(np.maximum(self._errors[before], self._errors[after]) + slewed + outside * UNKNOWN_DRIFT)


def gpu_clock(host: PiecewiseLinear, anchors: np.ndarray, note: Note) -> GpuClock | None:
    """One device's GPU timeline -> ns, from its GPU anchors; None when there is no good one.

    A smooth drift is laid through the tightest brackets; at an anchor whose bracket does not hold it, the map is
    drawn to that bracket's edge. So the map meets every good bracket.
    """
    low, high, x = _brackets(anchors, ClockFlags.GPU, "gpu")
    period = host.overall_slope
    good = _agreeing(x, low + (high - low) // 2, 1 / period, (high - low) // 2, period)
    _note_left_out(anchors, ClockFlags.GPU, int(good.sum()), note)
    if not good.any():
        return None
    x, low, high = x[good], low[good], high[good]
    smooth, wide = _smooth(x, low + (high - low) // 2, high - low, 1 / period)
    drawn = np.clip(smooth(x), low, high)
    # Where the smooth line misses a bracket, the truth is anywhere in that bracket.
    errors = _straying(smooth.x, wide * period, x.astype(float))
    errors = np.where(drawn == smooth(x), errors, np.maximum(errors, (high - low) * period))
    kept, y = _increasing(x, drawn)
    return GpuClock(host, PiecewiseLinear(kept, y, smooth.slopes[0], smooth.slopes[-1]), errors[np.isin(x, kept)])


class Clock:
    """All clocks of one trace."""

    def __init__(self, header: dict, anchors: np.ndarray, note: Note = lambda what, count: None):
        """`anchors` are raw ClockAnchor records; `note(what, count)` hears of those that are left out."""
        self._host = host_clock(header, anchors, note)
        devices = np.unique(anchors["device"][(anchors["flags"] & ClockFlags.GPU) != 0]).tolist()
        maps = {device: gpu_clock(self._host, anchors[anchors["device"] == device], note) for device in devices}
        self._gpu = {device: found for device, found in maps.items() if found is not None}
        self._base = int(_bounded(header["start_realtime"])) - int(_bounded(header["start_monotonic"]))
        host = np.flatnonzero(anchors["flags"] & ClockFlags.HOST)
        host = host[np.argsort(anchors["monotonic"][host], kind="stable")]
        monotonic, realtime = _bounded(anchors["monotonic"][host]), _bounded(anchors["realtime"][host])
        self._at, self._shift = monotonic.astype(float), (realtime - monotonic - self._base).astype(float)

    @property
    def devices(self) -> tuple[int, ...]:
        """Devices whose GPU times can be told."""
        return tuple(self._gpu)

    def ns(self, ticks) -> np.ndarray:
        """Ticks (uint64[n], or int64[n]) -> CLOCK_MONOTONIC (int64[n], ns)."""
        return self._host(ticks)

    def gpu(self, device: int, times) -> np.ndarray:
        """ns on a device's GPU timeline (int64[n]) -> CLOCK_MONOTONIC (int64[n], ns); -1 for an unknown device."""
        if device not in self._gpu:
            return np.full(len(times), -1, np.int64)
        return self._gpu[device](times)

    def gpu_error(self, device: int, ns) -> np.ndarray:
        """By how much GPU times that were mapped to `ns` (int64[n], CLOCK_MONOTONIC) can be off (int64[n], ns).

        Half the brackets in which the anchors nearby were seen, and what rates can change between them. 0 for a device
        that is not known.
        """
        return self._gpu[device].error(ns) if device in self._gpu else np.zeros(len(ns), np.int64)

    def to_realtime(self, ns):
        """CLOCK_MONOTONIC ns -> ns since the Unix epoch, by the offsets seen at the host anchors; -1 stays -1.

        Takes an int or an int64 array and returns the same.
        """
        times = _bounded(ns)
        shift = np.interp(times.astype(float), self._at, self._shift) if len(self._at) else 0.0
        real = np.where(times == -1, -1, times + self._base + _whole(np.asarray(shift)))
        return int(real) if real.ndim == 0 else real

    def from_realtime(self, unix) -> np.ndarray:
        """ns since the Unix epoch (int64[n]) -> CLOCK_MONOTONIC (int64[n], ns, at least 0).

        The offset is looked up at the time that it is itself needed for; it changes by a few ns in as many µs, so one
        step settles it. A clock that was set back in between has two answers, and one of them is given.
        """
        near = _bounded(unix) - self._base
        for _ in range(2 if len(self._at) else 0):
            near = _bounded(unix) - self._base - _whole(np.interp(near.astype(float), self._at, self._shift))
        return np.clip(near, 0, LIMIT)
