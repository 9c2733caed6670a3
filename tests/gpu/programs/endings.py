"""`endings HOW RECORDING READY`: records GPU work and then ends, or is ended.

`exits` calls os._exit() in the middle, `works` goes on until it is killed, `hangs` ends normally with work queued
that outlasts the recorder's patience. The file READY is made once spans have been resolved.
"""

import atexit
import os
import sys
import time
from pathlib import Path

import torch

from gpu.processes import say
from gpu.spinning import calibrate, spin

HANG_SECONDS = 5.0
SPIN = 100  # µs


def work_until(done) -> None:
    import wanhook

    buffer = torch.zeros(1 << 20, device="cuda")
    while not done():
        with wanhook.trace("step", level="block"), wanhook.trace("op", level="op"):
            spin(SPIN)
            buffer = buffer + 1
        time.sleep(0.001)


def exits(recording: str, ready: Path) -> None:
    import wanhook

    calibrate()
    wanhook.start(recording)
    until = time.monotonic() + 1.0
    with wanhook.trace("request"):
        work_until(lambda: time.monotonic() > until)
        os._exit(7)


def works(recording: str, ready: Path) -> None:
    import wanhook

    wanhook.start(recording)  # CUDA comes up inside the recording
    calibrate()
    begun = time.monotonic()

    def never() -> bool:
        if time.monotonic() - begun > 1.0 and not ready.exists():
            ready.touch()
        return False

    with wanhook.trace("request"):
        work_until(never)


def hangs(recording: str, ready: Path) -> None:
    times = {}
    # Functions run in the opposite order: this one after the recorder's, which comes with the import.
    atexit.register(lambda: say({**times, "left": time.monotonic()}))
    import wanhook

    wanhook.start(recording)
    calibrate()
    with wanhook.trace("quick", level="op"):
        spin(SPIN)
    torch.cuda.synchronize()
    with wanhook.trace("hung", level="op"):
        spin(HANG_SECONDS * 1e6)
    times["queued"] = time.monotonic()
    atexit.register(lambda: times.update(began=time.monotonic()))


if __name__ == "__main__":
    {"exits": exits, "works": works, "hangs": hangs}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
