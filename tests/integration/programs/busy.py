"""A program that computes, and is recorded until there is no more room for its recording: busy.py.

Prints what it computed and ends with status 5.
"""

import signal
import sys
import threading
import time

import wanhook
from wanhook._native import load as load_native

DEADLINE = 20.0  # seconds for the recording to end

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; a C++ program would die of it


def work(totals: list[int]) -> None:
    total = 0
    for number in range(20_000):
        wanhook.mark("tick")
        total += number
    totals.append(total)


def record_until_the_end() -> None:
    deadline = time.monotonic() + DEADLINE
    while load_native().status()["recording"] and time.monotonic() < deadline:
        for _ in range(1000):
            wanhook.mark("tick")


def main() -> None:
    totals: list[int] = []
    with wanhook.trace("request"):
        threads = [threading.Thread(target=work, args=(totals,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        record_until_the_end()
    print(f"computed {sum(totals)}")


main()
sys.exit(5)
