"""How fast a trace is read and analysed, and in how much memory: `python benchmarks/reading.py [records ...]`.

Makes a trace of that many records for each number given (1 000 000 and 10 000 000 unless told), as a launch-bound run
would leave it: of a hundred records 94 are allocator events, the rest a scope and a collective with their ends and GPU
intervals. Writing and reading are processes of their own, so that the peak of resident memory is that of reading.
Prints, decides nothing.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TURN = 100  # records that repeat
PERIOD = 1_000  # ns between two records
LIVE = 1_000  # blocks that are live at a time
SLOTS, FIRST = 4096, 0x7F0000000000  # segments of 2 MiB, each for one block at a time, and the address of the first
BATCH = 40 * TURN  # records written at a time: they fit a chunk
MIB = 1 << 20


def write(path: Path, records: int) -> None:
    from made_trace import TraceBuilder
    from wanhook.tracefile import format as layout

    builder = TraceBuilder(chunk_bytes=layout.CHUNK_BYTES)
    builder.group("0", (0, 1))
    builder.snapshot(0, *empty_segments(), reserved_bytes=SLOTS * 2 * MIB)
    for first in range(0, records, BATCH):
        for rows in turns(builder, first + np.arange(min(BATCH, records - first))):
            builder.rows(rows)
    builder.tick((records + 1) * PERIOD)
    builder.end((records + 1) * PERIOD)
    builder.save(path)


def turns(builder, place: np.ndarray):
    """Records number place[0] to place[-1], by kind."""
    from wanhook.tracefile.format import RECORDS, CollectivePhase, Kind, SpanOwner

    turn, slot = place // TURN, place % TURN
    tick = np.uint64(builder.tick(0)) + (place * PERIOD * 2).astype(np.uint64)
    outer = turn % 10 == 0
    scope, call = 2 * turn + 1, 2 * turn + 2
    string = builder.string
    begin = {"id": scope, "parent": np.where(outer, 0, scope - turn % 10 * 2), "level": 2 - outer, "timed": 1}
    begin |= {"name": np.where(outer, string("block"), string("self_attn")), "stream": 7}
    collective = {"id": call, "scope": scope, "op": string("alltoall_"), "role": string("qkv"), "group": 1, "flags": 16}
    span = {"begin": place * PERIOD, "end": (place + 40) * PERIOD, "stream": 7}
    kinds = [
        (slot == 0, Kind.SCOPE_BEGIN, begin),
        (slot == 1, Kind.COLLECTIVE, collective | {"bytes_in": MIB, "bytes_out": MIB, "stream": 7}),
        (slot == 2, Kind.GPU_SPAN, span | {"owner_type": SpanOwner.COLLECTIVE, "owner": call}),
        (slot == 3, Kind.COLLECTIVE_END, {"id": call, "phase": CollectivePhase.RETURNED}),
        ((slot > 3) & (slot < TURN - 2), Kind.ALLOCATOR, allocator_events(place, turn, slot, scope)),
        (slot == TURN - 2, Kind.SCOPE_END, {"id": scope}),
        (slot == TURN - 1, Kind.GPU_SPAN, span | {"owner_type": SpanOwner.SCOPE, "owner": scope}),
    ]
    for chosen, kind, fields in kinds:
        rows = np.zeros(int(chosen.sum()), RECORDS[kind])
        rows["kind"] = kind
        for name, value in fields.items() if kind is Kind.GPU_SPAN else (fields | {"tick": tick}).items():
            rows[name] = value[chosen] if isinstance(value, np.ndarray) else value
        if len(rows):
            yield rows


def empty_segments() -> tuple[list[dict], list[dict]]:
    """The state at the start: every segment is one free block."""
    from wanhook.tracefile.format import BlockState

    places = [FIRST + 2 * MIB * slot for slot in range(SLOTS)]
    segments = [{"address": place, "total": 2 * MIB, "stream": 7, "blocks": 1} for place in places]
    return segments, [
        {"address": place, "size": 2 * MIB, "segment": place, "state": BlockState.INACTIVE} for place in places
    ]


def allocator_events(place: np.ndarray, turn: np.ndarray, slot: np.ndarray, scope: np.ndarray) -> dict:
    """Every second event allocates a block, the one after it frees the block that came LIVE blocks before."""
    from wanhook.tracefile.format import AllocatorAction, AllocatorFlags

    number = turn * (TURN - 6) + slot - 4
    allocates = number % 2 == 0
    block = number // 2 - np.where(allocates, 0, LIVE)
    free = np.where(block >= 0, AllocatorAction.FREE_REQUESTED, AllocatorAction.ANNOTATE)
    return {
        "action": np.where(allocates, AllocatorAction.ALLOC, free),
        "flags": np.where(allocates | (block < 0), 0, AllocatorFlags.FREE_FOLDED),
        # 7919 and 4096 have no common factor: addresses jump about, and those of live blocks differ.
        "address": FIRST + block * 7919 % SLOTS * 2 * MIB,
        "size": 512 + block * 104_729 % MIB // 2,
        "stream": 7,
        "sequence": place + 2,
        "scope": scope,
    }


def read(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    moments = [time.perf_counter()]
    from wanhook.report.build import build
    from wanhook.report.terminal import render
    from wanhook.tracefile.model import load

    moments.append(time.perf_counter())
    run = load(path)
    moments.append(time.perf_counter())
    report = build(run)
    moments.append(time.perf_counter())
    render(report)
    moments.append(time.perf_counter())
    imported, loaded, analysed, rendered = np.diff(moments)
    after = resource.getrusage(resource.RUSAGE_SELF)
    peak = (after.ru_maxrss - before.ru_maxrss) * 1024
    size = path.stat().st_size
    print(
        f"{report.health[0].records:>10} records, {size / MIB:6.1f} MiB: import {imported:.2f} s, read {loaded:.2f} s, "
        f"analyse {analysed:.2f} s, render {rendered:.2f} s, of these in the kernel "
        f"{after.ru_stime - before.ru_stime:.2f} s; "
        f"peak memory {peak / MIB:.0f} MiB, {peak / size:.2f} x the file"
    )
    print(loaded + analysed + rendered)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--write"]:
        write(Path(arguments[1]), int(arguments[2]))
    elif arguments[:1] == ["--read"]:
        read(Path(arguments[1]))
    else:
        measure([int(argument) for argument in arguments] or [1_000_000, 10_000_000])


def measure(counts: list[int]) -> None:
    """Prints a line for each count, then how the time grew from each to the next."""
    took = []
    with tempfile.TemporaryDirectory() as directory:
        for count in counts:
            path = Path(directory) / f"{count}.wanhook"
            command = [sys.executable, __file__]
            subprocess.run([*command, "--write", path, str(count)], check=True)
            line, seconds = subprocess.check_output([*command, "--read", path], text=True).splitlines()
            print(line, flush=True)
            took.append((count, float(seconds)))
            path.unlink()
    for (few, quick), (many, slow) in itertools.pairwise(took):
        print(f"t({many}) / t({few}) = {slow / quick:.1f} for {many / few:.1f} times the records")


if __name__ == "__main__":
    main(sys.argv[1:])
