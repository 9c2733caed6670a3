"""Are start times at the end of a long run as exact as at its beginning? `python -m benchmarks.long_run [--minutes 10]`

`--keep DIR` leaves the trace and what was measured beside it; `--again DIR` makes the figures of them, without a GPU.

One GPU. Every 10 ms a scope begins on an idle stream, between two readings of the host's clock: before it, and once an
event right behind its begin was seen. These brackets are independent of the recorder's anchors. Kineto watches one
second at the beginning and one at the end. Prints by minute where the scopes' begins lie in the tightest brackets, and
their distance from Kineto's kernels at both ends.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import kineto_window

MEASURED = "measured.json"
EVERY = 0.01  # seconds
WINDOW = 1.0  # seconds that Kineto watches
PARTS = 10
MOST = 5_000.0  # ns that the two ends may differ


@dataclass(frozen=True)
class Part:
    """A stretch of the run: `off_ns` is the median of begin - middle of the bracket over the tightest fifth, `width_ns`
    the median of those brackets, `inside` the share of all begins that lie in their bracket."""

    minute: float
    scopes: int
    off_ns: float
    width_ns: float
    inside: float


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
    parts = [_part(begins[own], brackets[own], begins[0]) for own in np.array_split(np.arange(len(begins)), PARTS)]
    beside = {name: _beside(trace.clock.to_realtime(_begins(trace, name)), starts) for name, starts in kineto.items()}
    by_host = parts[-1].off_ns - parts[0].off_ns
    by_kineto = beside["end"] - beside["begin"]
    # Kineto's own clock is converted once a window: it may stray too, so the host's brackets decide.
    return {"parts": [asdict(part) for part in parts], "kineto_ns": beside, "end_less_begin_ns": by_host,
            "kineto_end_less_begin_ns": by_kineto, "stated_error_ns": _stated(trace, begins),
            "passed": bool(abs(by_host) <= MOST)}  # fmt: skip


def _begins(trace, name: str) -> np.ndarray:
    return trace.scopes[trace.scopes["name"] == trace.strings.index(name)]["gpu_begin"]


def _part(begins: np.ndarray, brackets: np.ndarray, first: int) -> Part:
    width = brackets[:, 1] - brackets[:, 0]
    tight = width <= np.quantile(width, 0.2)
    off = begins - (brackets[:, 0] + width // 2)
    inside = (begins >= brackets[:, 0]) & (begins <= brackets[:, 1])
    minute = float(np.median(begins) - first) / 60e9
    return Part(minute, len(begins), float(np.median(off[tight])), float(np.median(width[tight])), float(inside.mean()))


def _beside(ours: np.ndarray, starts: list[int]) -> float:
    """Median of Kineto's start - our begin; nan where they are not the same calls."""
    return float(np.median(np.array(starts) - ours)) if len(starts) == len(ours) else float("nan")


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
    begin, end = (found["kineto_ns"][name] / 1e3 for name in ("begin", "end"))
    return "\n".join([
        *lines,
        f"end less beginning: {found['end_less_begin_ns'] / 1e3:+.2f} us (at most {MOST / 1e3:.0f}); the clock states "
        f"an error of {found['stated_error_ns'] / 1e3:.1f} us",
        f"Kineto's kernel - our begin: {begin:+.2f} us at the beginning, {end:+.2f} at the end",
        "pass" if found["passed"] else "FAIL",
    ])  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
