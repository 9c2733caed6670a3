"""More different names than a recording can hold; FOLDER."""

import sys
import time

import wanhook

with wanhook.trace("request", out=sys.argv[1]):
    for number in range(66_000):
        wanhook.mark(f"step {number}")
        if number % 5_000 == 0:
            time.sleep(0.02)  # no faster than room is made
    time.sleep(0.1)
