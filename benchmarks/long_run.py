"""Are start times at the end of a long run as exact as at its beginning? `python -m benchmarks.long_run [--minutes 10]`

`--keep DIR` leaves the trace and what was measured beside it; `--again DIR` makes the figures of them, without a GPU.

One GPU. Every 10 ms a scope begins on an idle stream, between two readings of the host's clock: before it, and once
an event right behind its begin was seen. These brackets are independent of the recorder's anchors, and so is Kineto,
which watches one second at the beginning and one at the end. By minute it prints where the begins lie in the tightest
brackets.

*End less beginning, by brackets*. A begin lies early in its bracket, and the earlier the wider the bracket is: what
makes it wide, a host under load, comes mostly behind the begin. So the distance of the begin from the middle of the
bracket tells the clock's error only among brackets of equal width. The brackets of the first and of the last tenth of
the run are sorted by width into classes of 5 us; in each class with 20 or more at both ends the difference of the
medians is one value, and the estimate is their mean, weighted with the smaller of the two numbers.

*By Kineto*. The difference of the medians of (scope's begin - kernel's start) at the two ends.

Each has a 95 % interval by a bootstrap over stretches of neighbouring calls, since errors of a clock last. The ends
agree when both intervals lie within 5 us of 0. Neither reference decides alone: load may move a begin within a
bracket of the same width, and Kineto converts its own clock once a window, of which its interval knows nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import kineto_window

MEASURED = "measured.json"
EVERY = 0.01  # seconds
WINDOW = 1.0  # seconds that Kineto watches
PARTS = 10
MOST = 5_000.0  # ns that the two ends may differ
CLASS = 5_000  # ns of width that count as equal
FEWEST = 20  # brackets of a class, and calls that Kineto saw, at each end
STRETCHES = 20  # of neighbouring calls at each end, drawn as one
DRAWS = 1_000


@dataclass(frozen=True)
class Part:
    """A stretch of the run: `off_ns` is the median of begin - middle of the bracket over the tightest fifth, `width_ns`
    the median of those brackets, `inside` the share of all begins that lie in their bracket."""

    minute: float
    scopes: int
    off_ns: float
    width_ns: float
    inside: float


@dataclass(frozen=True)
class Drift:
    """End less beginning, ns: the estimate and its 95 % interval, nan where too little is alike. `compared`: calls at
    the end that has fewer."""

    ns: float
    low: float
    high: float
    compared: int

    @property
    def agrees(self) -> bool:
        return self.low >= -MOST and self.high <= MOST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--keep", type=Path, help="folder for the recording (default: one that is deleted)")
    parser.add_argument("--again", type=Path, help="the figures of a folder that was kept; nothing is run")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = chosen.again or chosen.keep or Path(made)
        if chosen.again is None:
            measure(folder, chosen.minutes * 60)
        found = figures(*read(folder))
    print(text(found), flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1))
    return int(not found["passed"])


def measure(folder: Path, seconds: float) -> None:
    """Leaves the trace and MEASURED in the folder: before and after the begin of each scope called "tick", host ns, and
    Kineto's kernel starts by window, Unix ns."""
    import torch

    import wanhook

    folder.mkdir(parents=True, exist_ok=True)
    vector = torch.zeros(1 << 20, device="cuda")
    vector.add_(1)
    torch.cuda.synchronize()
    kineto_window.warm_up()
    wanhook.start(folder)
    began = time.monotonic()
    kineto = {"begin": kernels(vector, "begin")}
    brackets: list[tuple[int, int]] = []
    due = time.monotonic()
    while due < began + seconds - 2 * WINDOW:
        brackets.append(bracketed_scope(vector))
        due += EVERY
        time.sleep(max(0.0, due - time.monotonic()))
    kineto["end"] = kernels(vector, "end")
    wanhook.stop(wait=10)
    (folder / MEASURED).write_text(json.dumps({"brackets": brackets, "kineto": kineto}))


def read(folder: Path):
    """(trace, brackets of the scopes called "tick", int64[n, 2], Kineto's kernel starts by window in Unix ns)."""
    from wanhook.tracefile.model import load

    measured = json.loads((folder / MEASURED).read_text())
    return load(folder).traces[0], np.array(measured["brackets"], np.int64), measured["kineto"]


def bracketed_scope(vector) -> tuple[int, int]:
    """A scope on an idle stream, and the host's clock before its begin and after that was seen."""
    import torch

    import wanhook

    seen = torch.cuda.Event()
    before = time.monotonic_ns()
    with wanhook.trace("tick", level="op"):
        seen.record()
        while not seen.query():
            pass
        after = time.monotonic_ns()
        vector.add_(1)
    torch.cuda.synchronize()
    return before, after


def kernels(vector, name: str) -> list[int]:
    """Scopes called `name` around one kernel each, back to back behind a busy stretch; Kineto's starts, Unix ns."""
    import torch

    import wanhook

    with kineto_window.CudaWindow() as window:
        until = time.monotonic() + WINDOW
        while time.monotonic() < until:
            torch.cuda._sleep(400_000)  # the host is ahead of the stream: begin event and kernel lie side by side
            with wanhook.trace(name, level="op"):
                vector.add_(1)
            torch.cuda.synchronize()
            time.sleep(EVERY)
    return sorted(start for named, _stream, start, _end in window.rows if "elementwise" in named)


def figures(trace, brackets: np.ndarray, kineto: dict[str, list[int]]) -> dict:
    """The parts of the run, Kineto's distance at both ends, and whether the ends agree."""
    begins = _begins(trace, "tick")
    if len(begins) != len(brackets):
        raise SystemExit(f"{len(begins)} scopes in the trace for {len(brackets)} in the run")
    rows = np.array_split(np.arange(len(begins)), PARTS)
    parts = [_part(begins[own], brackets[own], begins[0]) for own in rows]
    beside = {name: _beside(trace.clock.to_realtime(_begins(trace, name)), starts) for name, starts in kineto.items()}
    by_host = by_brackets(*(_widths_and_offsets(begins[own], brackets[own]) for own in (rows[0], rows[-1])))
    by_kineto = by_medians(-beside["begin"], -beside["end"])  # above 0 as for the brackets: begins come later
    return {
        "parts": [asdict(part) for part in parts],
        "kineto_ns": {name: float(np.median(values)) if len(values) else None for name, values in beside.items()},
        "by_brackets": asdict(by_host), "by_kineto": asdict(by_kineto), "stated_error_ns": _stated(trace, begins),
        "passed": by_host.agrees and by_kineto.agrees,
    }  # fmt: skip


def by_brackets(first: np.ndarray, last: np.ndarray) -> Drift:
    """first, last: (width, offset) of the brackets at the two ends, float[n, 2] in ns, in the order of time."""
    alike = _classes_of(first, last)
    compared = int(sum(min(counts) for counts in alike.values()))
    return _drawn(first, last, lambda one, other: _matched(one, other, list(alike)), compared)


def by_medians(first: np.ndarray, last: np.ndarray) -> Drift:
    """first, last: distances at the two ends, float[n] in ns, in the order of time."""
    compared = min(len(first), len(last))
    compared = compared if compared >= FEWEST else 0
    return _drawn(first, last, lambda one, other: float(np.median(other) - np.median(one)), compared)


def _classes_of(first: np.ndarray, last: np.ndarray) -> dict[int, tuple[int, int]]:
    """Class of width -> how many brackets it has at each end, where those are enough."""
    counts = [dict(zip(*np.unique(end[:, 0] // CLASS, return_counts=True), strict=True)) for end in (first, last)]
    both = {one: (counts[0][one], counts[1][one]) for one in counts[0].keys() & counts[1].keys()}
    return {one: numbers for one, numbers in both.items() if min(numbers) >= FEWEST}


def _matched(first: np.ndarray, last: np.ndarray, classes: list[int]) -> float:
    """The weighted mean over the classes that a draw has at both ends, nan without one."""
    values, weights = [], []
    kinds = first[:, 0] // CLASS, last[:, 0] // CLASS
    for one in classes:
        own, other = first[kinds[0] == one, 1], last[kinds[1] == one, 1]
        if len(own) and len(other):
            values.append(float(np.median(other) - np.median(own)))
            weights.append(min(len(own), len(other)))
    return float(np.average(values, weights=weights)) if values else float("nan")


def _drawn(first: np.ndarray, last: np.ndarray, difference: Callable[..., float], compared: int) -> Drift:
    if not compared:
        return Drift(*[float("nan")] * 3, 0)
    random = np.random.default_rng(0)
    stretches = [np.array_split(end, min(STRETCHES, len(end))) for end in (first, last)]
    found = [
        difference(*(np.concatenate([own[at] for at in random.integers(len(own), size=len(own))]) for own in stretches))
        for _ in range(DRAWS)
    ]
    return Drift(difference(first, last), *np.nanpercentile(found, [2.5, 97.5]).tolist(), compared)


def _widths_and_offsets(begins: np.ndarray, brackets: np.ndarray) -> np.ndarray:
    width = brackets[:, 1] - brackets[:, 0]
    return np.stack([width, begins - (brackets[:, 0] + width // 2)], axis=1).astype(float)


def _begins(trace, name: str) -> np.ndarray:
    return trace.scopes[trace.scopes["name"] == trace.strings.index(name)]["gpu_begin"]


def _part(begins: np.ndarray, brackets: np.ndarray, first: int) -> Part:
    width, off = _widths_and_offsets(begins, brackets).T
    tight = width <= np.quantile(width, 0.2)
    inside = (begins >= brackets[:, 0]) & (begins <= brackets[:, 1])
    minute = float(np.median(begins) - first) / 60e9
    return Part(minute, len(begins), float(np.median(off[tight])), float(np.median(width[tight])), float(inside.mean()))


def _beside(ours: np.ndarray, starts: list[int]) -> np.ndarray:
    """Kineto's starts - our begins, ns; none where they are not the same calls."""
    return (np.array(starts, np.int64) - ours).astype(float) if len(starts) == len(ours) else np.empty(0)


def _stated(trace, begins: np.ndarray) -> float:
    (device,) = trace.clock.devices
    return float(np.median(trace.clock.gpu_error(device, begins)))


def text(found: dict) -> str:
    lines = ["begin of a scope - middle of an independent bracket of the host's clock, us (tightest fifth)"]
    for part in found["parts"]:
        lines.append(
            f"minute {part['minute']:6.2f}  {part['scopes']:6} scopes  {part['off_ns'] / 1e3:+7.2f}  bracket "
            f"{part['width_ns'] / 1e3:6.1f}  inside {part['inside']:.1%}"
        )
    begin, end = (found["kineto_ns"][name] for name in ("begin", "end"))
    if begin is not None and end is not None:
        ends = f"{begin / 1e3:+.2f} us at the beginning, {end / 1e3:+.2f} at the end"
        lines.append(f"Kineto's kernel - our begin: {ends}")
    lines.append(f"end less beginning, us [95 %]; to lie within {MOST / 1e3:.0f}:")
    for name, said in (("by_brackets", "brackets of equal width"), ("by_kineto", "Kineto's kernels")):
        lines.append(_drift(said, Drift(**found[name])))
    stated = f"the clock states an error of {found['stated_error_ns'] / 1e3:.1f} us"
    return "\n".join([*lines, stated, "pass" if found["passed"] else "FAIL"])


def _drift(said: str, drift: Drift) -> str:
    if not drift.compared:
        return f"  {said}: nothing to compare"
    low, value, high = (each / 1e3 for each in (drift.low, drift.ns, drift.high))
    return f"  {said}: {value:+.2f} [{low:+.2f}, {high:+.2f}], {drift.compared} calls or more at each end"


if __name__ == "__main__":
    raise SystemExit(main())
