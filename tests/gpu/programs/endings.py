"""`endings HOW RECORDING READY`: records GPU work and then ends, or is ended.

`exits` calls os._exit() in the middle, `works` goes on until it is killed, `hangs` ends normally with work queued
that outlasts the recorder's patience, `daemons` ends normally while threads wait for room in a stream's queue, at the
begin or end of a scope, of a wait and of a native call. The file READY is made once spans have been resolved.
"""

import atexit
import functools
import os
import sys
import threading
import time
from contextlib import suppress
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


class Late:
    """Lets go of the GIL for long while the interpreter takes its modules apart: who asks for it meanwhile is ended."""

    def __init__(self, until: float):
        self.until = until  # CLOCK_MONOTONIC, seconds

    def __del__(self, sleep=time.sleep, now=time.monotonic):
        sleep(max(0.0, self.until - now()))


def leaves_daemons(recording: str, ready: Path) -> None:
    import wanhook
    from wanhook import _C as native
    from wanhook.decorators import in_scope

    def fail() -> None:
        raise ValueError("not this one")

    call = functools.partial(native.call_natively(in_scope(wanhook.trace("fails", level="op"), fail), "scope"))

    def scopes() -> None:
        with wanhook.trace("stage"), wanhook.trace("op", level="op"):
            pass

    def waits() -> None:
        native.begin_wait("wait")
        native.end_wait()

    def fails() -> None:
        with suppress(ValueError):
            call()

    def for_ever(work, stream) -> None:
        with torch.cuda.stream(stream):
            while True:
                work()

    calibrate()
    wanhook.start(recording)
    begun = time.monotonic()
    for work in (scopes, waits, fails):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            spin(HANG_SECONDS * 1e6)
        threading.Thread(target=for_ever, args=(work, stream), daemon=True).start()
    sys.late = Late(begun + HANG_SECONDS + 1)
    time.sleep(1)  # until the streams' queues are full


if __name__ == "__main__":
    programs = {"exits": exits, "works": works, "hangs": hangs, "daemons": leaves_daemons}
    programs[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
