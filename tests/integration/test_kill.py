"""SIGKILL at random moments: whatever a writer had published before is in the file, whole."""

import random
import signal
import subprocess
import time

import numpy as np

from wanhook.tracefile.model import Trace

KILLS = 200
THREADS = 4
LATEST = 0.060  # seconds after the threads began to write, or after they have written enough
ENOUGH = 150_000  # records: 37 chunks, of which 8 are there from the start
MARK_EVERY = 16  # of tests/native/numbered.h


def check_of(writer: int, numbers: np.ndarray) -> np.ndarray:
    """As in tests/native/numbered.h."""
    salt = (writer + 1) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return numbers.astype("u8") * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(salt)


def killed_after(program, seconds: float, records: int, trace, published) -> np.ndarray:
    """Starts the writer, kills it that long after it has written that much, and returns what its threads had published
    by then (uint64[threads])."""
    with subprocess.Popen([program, trace, published], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        while np.fromfile(published, "<u8").sum() < records:
            time.sleep(0.0005)
        time.sleep(seconds)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return np.fromfile(published, "<u8")


def check_events(events: np.ndarray, writer: int) -> None:
    check = check_of(writer, events["sequence"])
    assert (events["address"] == check).all()
    assert (events["size"] == ~check).all()
    assert (events["stream"] == check >> np.uint64(7)).all()
    assert (events["pool"] == check.astype("u4")).all()
    assert (events["scope"] == (check >> np.uint64(32)).astype("u4")).all()
    assert len(np.unique(events["thread"])) == 1


def check_mark(trace: Trace, row: int, writer: int) -> None:
    number = int(trace.marks["request"][row])
    assert trace.strings[trace.marks["name"][row]] == "a numbered mark"
    fill = "abcd"[writer] * (number // MARK_EVERY % 140)
    assert trace.mark_args[row] == {"writer": writer, "number": number, "fill": fill}


def check_trace(trace: Trace, published: np.ndarray) -> None:
    """All numbers of each writer are there without a gap, at least up to what it published, and each is whole."""
    events, marks = trace.allocator_events, trace.marks
    assert set(events["device"].tolist()) <= set(range(THREADS))
    found = 0
    for writer in range(THREADS):
        own = events[events["device"] == writer]
        check_events(own, writer)
        rows = np.flatnonzero(marks["scope"] == check_of(writer, marks["request"]).astype("u4"))
        numbers = np.sort(np.concatenate([own["sequence"], marks["request"][rows].astype("u8")]))
        assert (numbers == np.arange(1, len(numbers) + 1)).all()
        assert len(numbers) >= published[writer]
        assert (marks["request"][rows] % MARK_EVERY == 0).all()
        # Parsing every mark's text would take most of the test's time; the last ones are the ones in danger.
        for row in [*rows[:: max(1, len(rows) // 50)], *rows[-3:]]:
            check_mark(trace, int(row), writer)
        found += len(numbers)
    assert found == len(events) + len(marks)


def test_published_records_survive_200_kills(native_program, tmp_path):
    moments = random.Random(20261121)
    path, published_path = tmp_path / "rank-none-1-0.wanhook", tmp_path / "published"
    chunks = []
    for kill in range(KILLS):
        # By the clock, and by the growth of the file, which a busy machine delays.
        seconds, records = (moments.uniform(0, LATEST), 0) if kill % 2 else (0, moments.randrange(ENOUGH))
        published = killed_after(native_program("crash_writer"), seconds, records, path, published_path)
        trace = Trace(path)
        check_trace(trace, published)
        assert (trace.health.state, trace.health.crashed, trace.health.alive) == ("recording", True, False)
        assert trace.health.damage == []
        chunks.append(trace.health.chunks)
        path.unlink()
    assert sum(count > 8 for count in chunks) >= KILLS // 4
