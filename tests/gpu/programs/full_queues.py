"""`full_queues WHAT FOLDER`: while a thread waits for room at the end of a scope, without the GIL, another one goes on.

`left twice`: and leaves a scope around the one that this thread is leaving. Says how many event pairs are in use once
all scopes were left.
`stopped`: and stops the recording, FOLDER/1.
`muted`: and stops the recording, whose muted step of the perturbation check this thread is leaving, and is in a muted
step of the next one, FOLDER/2. Says whether it stays muted.
"""

import contextvars
import sys
import threading
import time
from pathlib import Path

import torch

import wanhook
from gpu.cuda_errors import last_error
from gpu.host_function import HostFunction
from gpu.processes import say
from wanhook import _C as native

STOOD_STILL = 0.2  # seconds without a launch: the queue is full
MOST_QUEUED = 20_000  # a made-up GPU's queue takes 1024 commands
PATIENCE = 30.0

holding = []  # host functions, as long as the driver may call them


def fill(stream: torch.cuda.Stream) -> None:
    """The stream stands still from here on, for a second after its queue is full. Another thread fills it, since who
    finds no room waits."""
    go, launched, full = threading.Event(), [], threading.Event()
    numbers = torch.zeros(1, device="cuda")
    with torch.cuda.stream(stream):
        numbers.add_(1)  # a kernel's first launch loads it, and may wait for whatever runs
    torch.cuda.synchronize()
    holding.append(HostFunction(lambda: go.wait(PATIENCE)))
    with torch.cuda.stream(stream):
        holding[-1].launch()
    assert holding[-1].begun.wait(PATIENCE)

    def work() -> None:
        with torch.cuda.stream(stream):
            while len(launched) < MOST_QUEUED and not full.is_set():
                numbers.add_(1)
                launched.append(time.monotonic())

    threading.Thread(target=work).start()
    while not launched or time.monotonic() - launched[-1] < STOOD_STILL:
        time.sleep(0.01)
    full.set()
    threading.Timer(1.0, go.set).start()
    assert len(launched) < MOST_QUEUED, "no queue was full"


def until(holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


def left_twice(folder: Path) -> dict:
    wanhook.start(folder / "1")
    outer, left, inner = (wanhook.trace(name, level="op") for name in ("outer", "left", "inner"))
    outer.__enter__()
    left.__enter__()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        inner.__enter__()
    fill(stream)

    def leave_outer() -> None:
        time.sleep(0.3)  # the other one waits in the end event of `inner` then
        outer.__exit__(None, None, None)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(leave_outer,))
    thread.start()
    left.__exit__(None, None, None)
    thread.join()
    inner.__exit__(None, None, None)
    torch.cuda.synchronize()
    until(lambda: native.spans_outstanding() == 0)
    found = {"outstanding": native.spans_outstanding()}
    wanhook.stop(wait=PATIENCE)
    return found


def stopped(folder: Path) -> dict:
    wanhook.start(folder / "1")
    inside = threading.Event()

    def work() -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), wanhook.trace("late"):
            fill(stream)
            inside.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE)
    time.sleep(0.2)
    wanhook.stop(wait=PATIENCE)
    thread.join()
    return {}


def muted(folder: Path) -> dict:
    def is_muted() -> bool:
        return native.status()["paused"]

    wanhook.start(folder / "1")
    inside, left = threading.Event(), threading.Event()

    def work() -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            while not inside.is_set():
                with wanhook.trace("step", verify=True):
                    if is_muted():
                        fill(stream)
                        inside.set()
        left.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE)
    time.sleep(0.2)
    wanhook.stop()
    wanhook.start(folder / "2")
    found = []
    while not found:
        with wanhook.trace("step", verify=True):
            if is_muted():
                assert left.wait(PATIENCE)
                time.sleep(0.1)
                found.append(is_muted())
    thread.join()
    found += [is_muted(), native.status()["recording"]]
    wanhook.stop(wait=PATIENCE)
    return {"muted in the step, behind it, recording": found}


def main(what: str, folder: str) -> None:
    torch.zeros(1, device="cuda")  # scopes are timed from the first use of the device on
    torch.cuda.synchronize()
    found = {"left twice": left_twice, "stopped": stopped, "muted": muted}[what](Path(folder))
    say({**found, "last_error": last_error()})


if __name__ == "__main__":
    main(*sys.argv[1:])
