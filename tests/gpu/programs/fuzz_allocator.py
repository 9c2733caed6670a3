"""`fuzz_allocator DIRECTORY OPERATIONS SEED DEVICES [pause]`: fuzzes the caching allocator under a recording.

It allocates before the recording begins. Every 20th operation torch's own counters are read inside a scope `check`,
whose memory sample tells the place among the allocator's events; at 50 of these moments the address map is read too.
All of it goes to DIRECTORY/truth.npz (see gpu.replayed.Truth). With `pause`, the recording is paused for a while in the
middle and torch's peaks are reset when it goes on.
"""

import gc
import random
import sys
import time
from pathlib import Path

import torch

import wanhook
from gpu.fuzzing import Fuzz
from gpu.processes import say
from gpu.replayed import COUNTED, TruthWriter, encoded_pool

BEFORE = 400  # operations before the recording, and while it is paused
EVERY = 20
MAPS = 50


def reset_peaks(devices: int) -> None:
    for device in range(devices):
        torch.cuda.reset_peak_memory_stats(device)


def read_counters(device: int) -> list[tuple[int, int]]:
    """(current, peak) of each counter."""
    stats = torch.cuda.memory_stats(device)
    return [(stats[f"{name}_bytes.all.current"], stats[f"{name}_bytes.all.peak"]) for name in COUNTED]


def read_map(device: int) -> tuple[list[tuple], list[tuple]]:
    segments, blocks = [], []
    for segment in torch.cuda.memory_snapshot():
        if segment["device"] != device:
            continue
        pool = encoded_pool(segment.get("segment_pool_id", (0, 0)))
        segments.append((segment["address"], segment["total_size"], segment["stream"], pool))
        blocks += [(each["address"], each["size"], each["requested_size"], each["state"]) for each in segment["blocks"]]
    return segments, blocks


def check(truth: TruthWriter, operation: int, device: int, with_map: bool) -> None:
    with torch.cuda.device(device), wanhook.trace("check", operation=operation, device=device):
        truth.add_counters(operation, device, read_counters(device))
        if with_map:
            truth.add_map(operation, device, *read_map(device))


def recorded_operations(fuzz: Fuzz, operations: int, seed: int, devices: int, pause: bool) -> TruthWriter:
    truth = TruthWriter()
    checks = range(EVERY, operations + 1, EVERY)
    with_map = set(random.Random(seed).sample(list(checks), min(MAPS, len(checks))))
    began = time.monotonic()
    for operation in range(1, operations + 1):
        fuzz.step()
        if operation in checks:
            for device in range(devices):
                check(truth, operation, device, operation in with_map)
        if pause and operation == operations // 2:
            wanhook.pause()
            for _ in range(BEFORE):
                fuzz.step()
            wanhook.resume()
            reset_peaks(devices)
        if operation % 5000 == 0:
            print(f"{operation} operations in {time.monotonic() - began:.1f} s: {dict(fuzz.counts)}", flush=True)
    return truth


def main(directory: str, operations: str, seed: str, devices: str, pause: str = "") -> None:
    torch.cuda.init()
    fuzz = Fuzz(int(seed), int(devices))
    for _ in range(BEFORE):
        fuzz.step()
    gc.collect()
    gc.disable()  # nothing is freed but by an operation
    wanhook.start(directory)
    reset_peaks(int(devices))
    truth = recorded_operations(fuzz, int(operations), int(seed), int(devices), bool(pause))
    wanhook.stop(wait=10)
    truth.write(Path(directory) / "truth.npz")
    counts = dict(fuzz.counts)
    fuzz.end()
    say(counts)


if __name__ == "__main__":
    main(*sys.argv[1:])
