"""Records once for each system call that takes room on disk, with that call and all later ones failing: faults.py N.

Recording number n goes to the directory n; a line for each says what became of it.
"""

import errno
import json
import sys
import time

import wanhook
from wanhook._native import load as load_native

MARKS = 60_000  # 15 chunks
DEADLINE = 20.0  # seconds for one recording


def mark_until_enough_or_full() -> None:
    """Marks that come faster than chunks are prepared are dropped, so they are counted as the recorder keeps them."""
    native = load_native()
    deadline = time.monotonic() + DEADLINE
    made = 0
    while (status := native.status())["recording"] and made - status["dropped"] < MARKS:
        for _ in range(1000):
            wanhook.mark("tick")
        made += 1000
        assert time.monotonic() < deadline, status


def record(call: int) -> dict:
    load_native().inject_disk_fault(call, errno.ENOSPC)
    try:
        wanhook.start(str(call), max_mb=16)
    except wanhook.WanhookError as error:
        return {"refused": str(error)}
    with wanhook.trace("request"):
        mark_until_enough_or_full()
    wanhook.stop()
    return {}


for number in range(int(sys.argv[1])):
    print(json.dumps({"call": number, **record(number)}))
