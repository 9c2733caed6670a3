"""`host_functions HOW RECORDING`: the stream waits for a Python function, and this thread fills the stream's queue.

That function needs the GIL: a thread that waits for room in the queue and keeps the GIL meanwhile waits for ever.
Whatever is put onto the stream here is put there by a recording: by HOW, `scopes`, `waits` or `native calls`. Says
whether the queue was full, so that something did wait.
"""

import functools
import sys
import time

import torch

import wanhook
from gpu.cuda_errors import last_error
from gpu.host_function import HostFunction
from gpu.processes import say
from wanhook import _C as native
from wanhook.decorators import in_scope

COUNT = 5_000  # two events each; a made-up GPU's queue takes 1024 commands
BUSY_SECONDS = 0.5  # of the host function; far more than it takes to fill the queue


def fill_with_scopes() -> None:
    for number in range(COUNT):
        with wanhook.trace("filled", level="op", number=number):
            pass


def fill_with_waits() -> None:
    for _ in range(COUNT):
        native.begin_wait("filled")
        native.end_wait()


def fill_with_native_calls() -> None:
    function = in_scope(wanhook.trace("filled", level="op"), lambda: None)
    call = functools.partial(native.call_natively(function, "scope"))  # from C: Python 3.11 itself runs its code
    for _ in range(COUNT):
        call()


def main(how: str, recording: str) -> None:
    fill = {"scopes": fill_with_scopes, "waits": fill_with_waits, "native calls": fill_with_native_calls}[how]
    torch.cuda.init()
    torch.cuda.synchronize()
    wanhook.start(recording)
    function = HostFunction(lambda: time.sleep(BUSY_SECONDS))  # without the GIL, which it has to have again then
    with torch.cuda.stream(torch.cuda.Stream()):
        function.launch()
        assert function.begun.wait(60)
        fill()
        filled = time.monotonic()
        torch.cuda.synchronize()
    wanhook.stop(wait=10)
    say({"queue_was_full": filled >= function.returned > 0, "last_error": last_error()})


if __name__ == "__main__":
    main(*sys.argv[1:])
