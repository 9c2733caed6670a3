"""Slots of a file: header rules, chunk rules, threads, payloads, and what damage leaves."""

from __future__ import annotations

import os
import struct
import sys

import numpy as np
import pytest

from made_trace import TraceBuilder
from wanhook.tracefile import format as layout
from wanhook.tracefile.format import RECORDS, Kind, TraceFormatError
from wanhook.tracefile.reader import Slots

CHUNK = 4096
FIRST = layout.HEADER_BYTES
OFFSETS = {name: offset for name, (_, offset) in layout.FILE_HEADER.fields.items()}
HEAD = {name: offset for name, (_, offset) in layout.CHUNK_HEADER.fields.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rank00000-1-0.wanhook"


def small() -> TraceBuilder:
    builder = TraceBuilder()
    builder.scope("request", 0, 5_000, args={"step": 1})
    builder.scope("worker", 1_000, 2_000, thread=2)
    return builder


def save(path, raw: bytes, **fields: int):
    """Write a file with header fields changed."""
    raw = bytearray(raw)
    for name, value in fields.items():
        form = layout.FILE_HEADER.fields[name][0]
        raw[OFFSETS[name] : OFFSETS[name] + form.itemsize] = np.array(value, form).tobytes()
    path.write_bytes(raw)
    return path


# The header.


def test_the_header_is_a_dict_of_python_values(path):
    header = Slots(small().save(path)).header
    assert header["magic"] == layout.FILE_MAGIC
    assert (header["pid"], header["chunk_bytes"], header["start_monotonic"]) == (4242, CHUNK, 1_000_000_000_000)


@pytest.mark.parametrize(
    ("fields", "offset", "reason"),
    [
        ({"magic": b"PK\3\4"}, 0, "magic"),
        ({"major": 2, "minor": 7}, 8, r"format 2\.7, this reader knows 1\.0: update wanhook"),
        ({"major": 0}, 8, r"format 0\.0, this reader knows 1\.0"),
        ({"header_bytes": 0}, 12, "header_bytes is 0"),
        ({"header_bytes": 4097}, 12, "header_bytes is 4097"),
        ({"header_bytes": 0xFFFFF000}, 12, "header_bytes is 4294963200"),
        ({"header_bytes": 1 << 20}, 5 * CHUNK, "its header page 1048576"),
        ({"chunk_bytes": 0}, 16, "chunk_bytes is 0"),
        ({"chunk_bytes": 64}, 16, "chunk_bytes is 64"),
        ({"chunk_bytes": 0xFFFFFFFF}, 16, "chunk_bytes is 4294967295"),
        ({"record_bytes": 128}, 20, "record_bytes is 128"),
    ],
)
def test_a_header_that_cannot_be_one_is_refused(path, fields, offset, reason):
    builder = small()
    save(path, builder.to_bytes(), **fields)
    with pytest.raises(TraceFormatError, match=reason) as caught:
        Slots(path)
    assert caught.value.path == path
    assert caught.value.offset == (path.stat().st_size if offset == 5 * CHUNK else offset)


@pytest.mark.parametrize("size", [0, 1, 8, 95, 96, 4095])
def test_a_file_that_ends_in_its_header_page_is_refused(path, size):
    path.write_bytes(small().to_bytes()[:size])
    with pytest.raises(TraceFormatError) as caught:
        Slots(path)
    assert caught.value.offset == size


def test_a_header_alone_is_an_empty_recording(path):
    path.write_bytes(small().to_bytes()[:FIRST])
    slots = Slots(path)
    assert (len(slots.kinds), slots.chunks, slots.damage.lines()) == (0, 0, [])


def test_a_newer_minor_version_is_read(path):
    slots = Slots(save(path, small().to_bytes(), minor=9))
    assert slots.header["minor"] == 9
    assert slots.counts[Kind.SCOPE_BEGIN] == 2


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TraceFormatError, match="regular"):
        Slots(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError):
        Slots(tmp_path / "none")


# Chunks.


def chunk(slots: bytes, count: int, *, magic: int = layout.CHUNK_MAGIC, type: int = 2) -> bytes:
    head = np.zeros(1, layout.CHUNK_HEADER)
    head["magic"], head["type"], head["count"] = magic, type, count
    return (head.tobytes() + slots).ljust(CHUNK, b"\0")


def marks(count: int, first: int = 0) -> bytes:
    rows = np.zeros(count, RECORDS[Kind.MARK])
    rows["kind"], rows["tick"] = Kind.MARK, np.arange(first, first + count)
    return rows.view("V64").tobytes()


def file_of(path, *chunks: bytes) -> Slots:
    path.write_bytes(TraceBuilder().to_bytes()[:FIRST] + b"".join(chunks))
    return Slots(path)


def ticks(slots: Slots) -> list[int]:
    return slots.column(Kind.MARK, "tick", slots.positions(Kind.MARK)).tolist()


def test_only_published_records_are_read(path):
    assert ticks(file_of(path, chunk(marks(9), 4), chunk(marks(9, 100), 0), chunk(marks(9, 200), 1))) == [
        0,
        1,
        2,
        3,
        200,
    ]


def test_unused_chunks_are_passed_over(path):
    unused = b"\0" * CHUNK
    taken = chunk(b"", 0, magic=0)  # killed between storing the type and the magic number
    slots = file_of(path, chunk(marks(2), 2), unused, taken, chunk(marks(2, 9), 2), unused)
    assert (ticks(slots), slots.chunks, slots.damage.lines()) == ([0, 1, 9, 10], 2, [])


def test_a_chunk_with_a_bad_magic_is_skipped_and_the_rest_is_read(path):
    slots = file_of(path, chunk(marks(2), 2, magic=0x4B4E4842), chunk(marks(2, 9), 2), chunk(marks(1), 1, magic=0))
    assert ticks(slots) == [9, 10]
    assert slots.damage.lines() == [f"2 chunks without a chunk's magic number, skipped (the first at byte {FIRST})"]


def test_a_chunk_of_an_unknown_type_is_skipped(path):
    slots = file_of(path, chunk(marks(2), 2), chunk(marks(2, 9), 2, type=4))
    assert ticks(slots) == [0, 1]
    assert slots.damage.lines() == [
        f"1 chunks of a type this reader does not know, skipped (the first at byte {FIRST + CHUNK})"
    ]


@pytest.mark.parametrize("count", [64, 1 << 20, 0xFFFFFFFF])
def test_a_count_is_trusted_up_to_the_capacity(path, count):
    slots = file_of(path, chunk(marks(63), count), chunk(marks(1, 100), 1))
    assert ticks(slots) == [*range(63), 100]
    assert slots.damage.lines() == [
        f"1 chunks that claim more records than they have room for (the first at byte {FIRST})"
    ]


@pytest.mark.parametrize("cut", range(0, CHUNK + 1, 32))
def test_a_truncated_file_gives_the_good_prefix(path, cut):
    raw = TraceBuilder().to_bytes()[:FIRST] + chunk(marks(3), 3) + chunk(marks(63, 100), 63)
    path.write_bytes(raw[: FIRST + CHUNK + cut])
    slots = Slots(path)
    whole = max(cut // 64 - 1, 0)
    assert ticks(slots) == [0, 1, 2, *range(100, 100 + whole)]
    if cut in (0, CHUNK):
        assert slots.damage.lines() == []
    elif cut < 64:
        assert "cut off inside their header" in slots.damage.lines()[0]
    else:
        assert slots.damage.lines()[0].startswith(f"{63 - whole} records cut off with the end of the file")


@pytest.mark.parametrize("state", list(layout.FileState))
def test_an_ended_file_without_whole_chunks_was_cut_off(path, state):
    """Also where all records of the last chunk that is there are: a recorder that grows its file may be in between."""
    save(path, TraceBuilder().to_bytes()[:FIRST] + chunk(marks(3), 3)[: CHUNK // 2], state=state)
    slots = Slots(path)
    assert ticks(slots) == [0, 1, 2]
    cut = [f"{CHUNK // 2} bytes missing from the chunk that the file ends in, and what came behind it"]
    assert slots.damage.lines() == ([] if state == layout.FileState.RECORDING else cut)


def test_a_file_cut_while_it_is_read_gives_empty_slots(path, monkeypatch):
    path.write_bytes(TraceBuilder().to_bytes()[:FIRST] + chunk(marks(3), 3) + chunk(marks(3, 9), 3))
    table = Slots._chunk_table

    def cut(self, file):
        found = table(self, file)
        os.truncate(path, FIRST + CHUNK + 2 * 64)
        return found

    monkeypatch.setattr(Slots, "_chunk_table", cut)
    slots = Slots(path)
    assert ticks(slots) == [0, 1, 2, 9]
    assert slots.damage.lines() == ["2 empty slots among published records"]


def test_records_published_while_reading_are_left_for_next_time(path):
    raw = bytearray(TraceBuilder().to_bytes()[:FIRST] + chunk(marks(3), 2))
    path.write_bytes(raw)
    assert ticks(Slots(path)) == [0, 1]
    struct.pack_into("<I", raw, FIRST + HEAD["count"], 3)
    path.write_bytes(raw + chunk(marks(1, 7), 1))
    assert ticks(Slots(path)) == [0, 1, 2, 7]


def test_a_sparse_file_of_a_terabyte_is_read_at_once(path):
    path.write_bytes(TraceBuilder().to_bytes()[:FIRST] + chunk(marks(3), 3))
    os.truncate(path, 1 << 40)
    with open(path, "r+b") as file:
        file.seek(FIRST + (1 << 28) * CHUNK // 2)
        file.write(chunk(marks(2, 50), 2))
    assert ticks(Slots(path)) == [0, 1, 2, 50, 51]


@pytest.mark.parametrize("chunk_bytes", [4096, 8192, 1 << 18, 1 << 20])
def test_any_size_of_chunks(path, chunk_bytes):
    builder = TraceBuilder(chunk_bytes=chunk_bytes)
    for number in range(500):
        builder.mark("m", number)
    assert Slots(builder.save(path)).counts[Kind.MARK] == 500


def test_unknown_kinds_are_skipped_and_counted(path):
    odd = bytes([200]).ljust(64, b"\1")
    slots = file_of(path, chunk(marks(1) + odd + odd + bytes(64) + marks(1, 5), 5))
    assert ticks(slots) == [0, 5]
    assert slots.damage.lines() == [
        "1 empty slots among published records",
        "2 records of kinds that this reader does not know, skipped",
    ]


# Threads.


def writer(thread: int) -> bytes:
    rows = np.zeros(1, RECORDS[Kind.WRITER])
    rows["kind"], rows["thread"] = Kind.WRITER, thread
    return rows.tobytes()


def test_a_record_belongs_to_the_last_writer_before_it_in_its_chunk(path):
    first = chunk(writer(3) + marks(2) + writer(8) + marks(1, 10), 5)
    second = chunk(marks(1, 20) + writer(4) + marks(1, 30), 3)
    third = chunk(b"", 0) + chunk(marks(1, 40), 1)
    slots = file_of(path, first, second, third)
    dtype = np.dtype([("tick", "u8"), ("thread", "u4")])
    rows = slots.take(Kind.MARK, dtype, slots.positions(Kind.MARK))
    assert rows.tolist() == [(0, 3), (1, 3), (10, 8), (20, 0), (30, 4), (40, 0)]


# Payloads.


def texts(slots: Slots, kind: Kind = Kind.META) -> list[bytes]:
    starts, lengths = slots.text_spans(kind, slots.positions(kind))
    return [slots.payloads.bytes(*span) for span in zip(starts.tolist(), lengths.tolist(), strict=True)]


def meta(claim: int) -> bytes:
    rows = np.zeros(1, RECORDS[Kind.META])
    rows["kind"], rows["text_bytes"] = Kind.META, claim
    return rows.tobytes()


def text(letters: bytes, used: int | None = None) -> bytes:
    return struct.pack("<BBH60s", Kind.TEXT, 0, len(letters) if used is None else used, letters)


@pytest.mark.parametrize("length", [0, 1, 59, 60, 61, 119, 120, 121, 600])
def test_a_payload_is_joined_from_its_pieces(path, length):
    builder = TraceBuilder()
    payload = bytes(65 + n % 26 for n in range(length))
    builder.record(Kind.META, b"before")
    builder.record(Kind.META, payload)
    builder.record(Kind.META, b"behind")
    slots = Slots(builder.save(path))
    assert texts(slots)[1:] == [b"before", payload, b"behind"]
    assert slots.damage.lines() == []


def test_payloads_that_claim_too_much_are_cut_and_noted(path):
    slots = file_of(
        path,
        chunk(meta(100) + text(b"a" * 60) + meta(5), 3),
        chunk(text(b"b" * 60) + meta(0xFFFFFFFF) + text(b"c" * 60, used=0xFFFF) + text(b"dd"), 4),
        chunk(meta(1) + text(b"ee"), 2),
    )
    assert texts(slots) == [b"a" * 60, b"", b"c" * 60 + b"dd", b"e"]
    assert slots.damage.lines() == [
        "1 Text records that claim more than they hold",
        "1 Text records at the head of a chunk, without an owner",
        "3 meta records whose text is cut short",
    ]


def test_records_without_a_field_for_text_may_be_followed_by_some(path):
    slots = file_of(path, chunk(writer(1) + text(b"lost") + meta(2) + text(b"{}"), 4))
    assert texts(slots) == [b"{}"]


def test_many_pieces_are_joined_across_blocks(path):
    builder = TraceBuilder(chunk_bytes=1 << 20)
    wanted = [bytes([65 + n % 26]) * (n % 200) for n in range(4_000)]
    for payload in wanted:
        builder.record(Kind.META, payload)
    assert texts(Slots(builder.save(path)))[1:] == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_no_file_stays_open(path):
    small().save(path)
    before = len(os.listdir("/proc/self/fd"))
    slots = Slots(path)
    path.write_bytes(b"nothing")
    with pytest.raises(TraceFormatError):
        Slots(path)
    assert len(os.listdir("/proc/self/fd")) == before
    del slots
