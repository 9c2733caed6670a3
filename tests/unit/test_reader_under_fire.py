"""10 000 corrupted files: each gives what is good of it, or a TraceFormatError that says where and why.

Nothing else may be raised or warned of, no file may take long, and memory stays within 3 times the file + 64 MiB.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from made_trace import TraceBuilder
from wanhook.tracefile import format as layout
from wanhook.tracefile.format import RECORDS, AllocatorAction, Kind, TraceFormatError
from wanhook.tracefile.model import Trace, load

ROOT = Path(__file__).parents[2]
LONGEST = 5.0  # seconds for one file of a few chunks, on a busy machine; usual is 2 ms
MEMORY = 64 << 20
SEED = 20_261_120


def every_kind() -> bytes:
    """A small file with several records of every kind, by three threads."""
    builder = TraceBuilder(0, 2)
    group = builder.group("0", (0, 1), description="default_pg")
    builder.gpu_anchor(500_000)
    builder.anchor(600_000)
    for step in range(6):
        at = step * 10_000
        outer = builder.scope("denoise_step", at, at + 9_000, gpu=(at, at + 9_500), args={"step": step})
        inner = builder.scope("attn", at + 100, at + 8_000, parent=outer, level="op", gpu=(at + 200, at + 8_100))
        call = {"role": "qkv", "group": group, "scope": inner, "bytes_in": 1 << 20, "bytes_out": 1 << 20}
        builder.collective("alltoall_", at + 300, returned=at + 320, gpu=(at + 400, at + 900), **call)
        launch = at + 310 if step % 2 else None
        builder.kernel("ncclDevKernel_SendRecv", at + 500, at + 800, launch=launch, window=outer)
        builder.alloc(step << 12, 4096, at + 1_000, scope=inner, thread=2)
        builder.free(step << 12, 4096, at + 2_000, completed=at + 2_001, scope=inner, thread=2)
        builder.mark("expert switch", at + 3_000, scope=outer, args={"note": "x" * 100}, thread=3)
    builder.collective("barrier", 70_000, completed=71_000, failed=72_000)
    builder.kernel_window(10_000, 20_000)
    builder.allocator(AllocatorAction.OOM, 1 << 30, 0, 80_000)
    blocks = [{"address": 0x1000 * n, "size": 0x1000, "segment": 0} for n in range(3)]
    builder.snapshot(90_000, [{"address": 0, "total": 1 << 21, "blocks": 3}], blocks)
    builder.sample(91_000, allocated=1, reserved_bytes=2, retries=1)
    builder.device_sample(92_000, sm_clock=1980)
    builder.recorder_sample(93_000, resolver_cpu=5)
    builder.drop(94_000, 3)
    builder.gate(95_000, False)
    builder.end(99_000)
    return builder.to_bytes()


WHOLE = every_kind()
CHUNK = 4096
CHUNKS = range(layout.HEADER_BYTES, len(WHOLE), CHUNK)


def truncations() -> Iterator[bytes]:
    """At every record, one byte to either side of it, and in the middle of it."""
    for end in range(0, len(WHOLE), layout.RECORD_BYTES):
        for shift in (0, 1, 31, 63):
            yield WHOLE[: end + shift]


def flipped_bits() -> Iterator[bytes]:
    chance = random.Random(SEED)
    used = [at for at in range(len(WHOLE)) if WHOLE[at]]
    for number in range(4_000):
        raw = bytearray(WHOLE)
        for _ in range(1 + number % 8):
            raw[chance.choice(used) if number % 2 else chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        yield bytes(raw)


def overwritten_stretches() -> Iterator[bytes]:
    chance = random.Random(SEED + 1)
    for number in range(1_500):
        raw = bytearray(WHOLE)
        at, length = chance.randrange(len(raw)), chance.choice([1, 2, 4, 8, 64, 500, 5_000])
        fill = [b"\0", b"\xff", b"\x7f", chance.randbytes(length)][number % 4]
        raw[at : at + length] = (fill * length)[: len(raw[at : at + length])]
        yield bytes(raw)


def shuffled_slots() -> Iterator[bytes]:
    """Records in other places, and whole chunks too."""
    chance = random.Random(SEED + 2)
    slots = range(layout.HEADER_BYTES, len(WHOLE), layout.RECORD_BYTES)
    for number in range(600):
        raw = bytearray(WHOLE)
        for _ in range(1 + number % 20):
            length = CHUNK if number % 10 == 0 else layout.RECORD_BYTES
            first, second = (chance.choice(CHUNKS if length == CHUNK else slots) for _ in range(2))
            raw[first : first + length] = WHOLE[second : second + length]
        yield bytes(raw)


def absurd_values(form: np.dtype) -> list[bytes]:
    if form.kind in "SV":
        return [b"\xff" * form.itemsize, bytes(form.itemsize)]
    if form.kind == "f":
        return [np.array(value, form).tobytes() for value in (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e308, 5e-324)]
    bits = 8 * form.itemsize
    numbers = {0, 1, 2**bits - 1, 2**bits - 2, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 2 ** (bits // 2), 2 ** (bits - 3)}
    return [number.to_bytes(form.itemsize, "little") for number in sorted(numbers)]


def absurd_fields(dtype: np.dtype, at: int) -> Iterator[bytes]:
    for form, offset in dtype.fields.values():
        for value in absurd_values(form):
            yield WHOLE[: at + offset] + value + WHOLE[at + offset + form.itemsize :]


def absurd_numbers() -> Iterator[bytes]:
    """Every field of the header, of each chunk's header, and of the first three records of each kind."""
    yield from absurd_fields(layout.FILE_HEADER, 0)
    seen: dict[int, int] = {}
    for start in CHUNKS:
        yield from absurd_fields(layout.CHUNK_HEADER, start)
        count = int.from_bytes(WHOLE[start + 20 : start + 24], "little")
        for at in range(start + 64, start + 64 * (count + 1), 64):
            seen[WHOLE[at]] = seen.get(WHOLE[at], 0) + 1
            if seen[WHOLE[at]] <= 3:
                yield from absurd_fields(RECORDS[Kind(WHOLE[at])], at)
    assert set(seen) == {int(kind) for kind in RECORDS}, "the small file lacks a kind"


SORTS = [truncations, flipped_bits, overwritten_stretches, shuffled_slots, absurd_numbers]


def use_everything(trace: Trace) -> None:
    """What a report would touch: every name, path, argument and interval."""
    assert isinstance(trace.health.damage, list)
    for table in (trace.scopes, trace.collectives):
        assert ((table["path"] >= -1) & (table["path"] < len(trace.paths))).all()
        for name in ("begin", "gpu_begin"):
            assert (table[name] >= -1).all()
    ids = [trace.scopes["name"], trace.marks["name"], trace.collectives["op"], trace.collectives["role"]]
    assert all(trace.strings[number] is not None for column in ids for number in column)
    assert set(trace.collectives["group"].tolist()) <= trace.groups.keys()
    assert all(isinstance(found, dict) for args in (trace.scope_args, trace.mark_args) for found in args.values())
    assert (trace.scopes["end"][~trace.scopes["open"]] >= trace.scopes["begin"][~trace.scopes["open"]]).all()
    assert trace.path_of(trace.allocator_events["scope"]).max(initial=-1) < len(trace.paths)
    assert trace.health.last_time >= 0
    assert sum(len(snapshot.blocks) for snapshot in trace.snapshots) <= trace.health.records


def can_be_read(path: Path) -> bool:
    """True where something could be read; False after a refusal that says where and why."""
    try:
        trace = load(path).traces[0]
    except TraceFormatError as error:
        refusal = error
    else:
        use_everything(trace)
        return True
    assert refusal.path == path
    assert 0 <= refusal.offset <= len(WHOLE)
    assert refusal.reason
    return False


def resident_peak() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


@pytest.fixture
def little_memory():
    """Fails a test that grows the process by more than 64 MiB at any moment."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = resident_peak()
    yield
    assert resident_peak() - before <= MEMORY + 3 * len(WHOLE)


@pytest.fixture
def no_hang():
    def stop(number, frame):
        raise TimeoutError("a corrupted file hangs the reader")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_there_are_ten_thousand():
    assert sum(1 for sort in SORTS for _ in sort()) >= 10_000


@pytest.mark.parametrize("sort", SORTS)
def test_corrupted_files_are_read_or_refused(sort, tmp_path, little_memory, no_hang):
    path = tmp_path / "a.wanhook"
    read = refused = 0
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for number, raw in enumerate(sort()):
            path.write_bytes(raw)
            began = time.perf_counter()
            try:
                good = can_be_read(path)
            except Exception as error:
                raise AssertionError(f"{sort.__name__}, number {number}: {error!r}") from error
            assert time.perf_counter() - began < LONGEST, f"{sort.__name__}, number {number}"
            read, refused = read + good, refused + (not good)
    assert read > refused, "a damaged file is worth reading"


def test_a_truncated_file_gives_exactly_its_prefix(tmp_path):
    path = tmp_path / "a.wanhook"
    path.write_bytes(WHOLE)
    whole = load(path).traces[0]
    assert whole.health.damage == []
    counts = [int.from_bytes(WHOLE[at + 20 : at + 24], "little") for at in CHUNKS]
    for end in range(layout.HEADER_BYTES, len(WHOLE), layout.RECORD_BYTES):
        path.write_bytes(WHOLE[:end])
        there = [(end - at) // 64 - 1 for at in CHUNKS]
        trace = load(path).traces[0]
        cut = [min(count, room) if room >= 0 else 0 for count, room in zip(counts, there, strict=True)]
        assert trace.health.records == sum(cut)
        assert set(trace.scopes["id"]) <= set(whole.scopes["id"])
        if any(0 <= room < count for count, room in zip(counts, there, strict=True)):
            assert any("cut off with the end of the file" in line for line in trace.health.damage)


# Reads the file named on the command line and prints how far resident memory grew.
MEASURE = """
import json, sys
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
from wanhook.tracefile.model import load
before = status("VmRSS")
trace = load(sys.argv[1]).traces[0]
print(json.dumps({"grown": status("VmHWM") - before, "records": trace.health.records}))
"""


@pytest.mark.parametrize("kind", [Kind.ALLOCATOR, Kind.SCOPE_BEGIN, Kind.COLLECTIVE, Kind.TEXT, Kind.CLOCK_ANCHOR])
def test_memory_is_bounded_by_the_file(kind, tmp_path):
    """400 000 records of one kind, ids and times as they should be: nothing else is as large as the tables."""
    count = 400_000
    builder = TraceBuilder(chunk_bytes=layout.CHUNK_BYTES)
    rows = np.zeros(count, RECORDS[kind])
    rows["kind"] = kind
    counted = {"id": 1, "sequence": 1, "tick": builder.start_tick, "parent": 0, "name": 1, "bytes": 60}
    for name in counted.keys() & set(rows.dtype.names):
        rows[name] = 60 if name == "bytes" else np.arange(counted[name], counted[name] + count)
    builder.rows(rows)
    path = builder.save(tmp_path / "a.wanhook")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEASURE, str(path)]
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert found["records"] > count
    assert found["grown"] <= 3 * path.stat().st_size + MEMORY
