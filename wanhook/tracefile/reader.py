"""A trace file as slots: header, chunk table, kinds, threads and text payloads, each checked against the file's size.

Nothing in the file is trusted with more than its place: a count, a length or an id that claims too much is cut to
what is there and noted. The file is read with `readinto`, not mapped: a recorder may still grow or cut it, and a
mapped page that goes away is a SIGBUS.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from . import format as layout
from .format import RECORD_BYTES, RECORDS, Kind, TraceFormatError

MAX_CHUNK_BYTES = 64 << 20
BLOCK = 1 << 12  # records gathered at a time: they stay in the second-level cache while their fields are copied


class Damage:
    """What was wrong in a file: each sort once, with how often and where first."""

    def __init__(self):
        self._seen: dict[str, list[int | None]] = {}

    def note(self, what: str, count: int = 1, offset: int | None = None) -> None:
        if count:
            entry = self._seen.setdefault(what, [0, offset])
            entry[0] += int(count)

    def lines(self) -> list[str]:
        place = {what: "" if at is None else f" (the first at byte {at})" for what, (_, at) in self._seen.items()}
        return [f"{count} {what}{place[what]}" for what, (count, _) in self._seen.items()]


def _check_header(path, header: dict) -> None:
    if header["magic"] != layout.FILE_MAGIC:
        raise TraceFormatError(path, 0, "this is not a wanhook trace: the first 8 bytes are not its magic number")
    if header["major"] != layout.FORMAT_MAJOR:
        newer = header["major"] > layout.FORMAT_MAJOR
        remedy = "update wanhook to read it" if newer else "no reader of that version exists"
        versions = f"format {header['major']}.{header['minor']}, this reader knows {layout.FORMAT_MAJOR}"
        raise TraceFormatError(path, 8, f"the file has {versions}.{layout.FORMAT_MINOR}: {remedy}")
    for name, offset, least in (("header_bytes", 12, layout.HEADER_BYTES), ("chunk_bytes", 16, 4096)):
        value = header[name]
        if not least <= value <= MAX_CHUNK_BYTES or value % 4096:
            raise TraceFormatError(path, offset, f"{name} is {value}, not a multiple of 4096 up to {MAX_CHUNK_BYTES}")
    if header["record_bytes"] != RECORD_BYTES:
        raise TraceFormatError(path, 20, f"record_bytes is {header['record_bytes']}, not {RECORD_BYTES}")


def read_header(path, file: BinaryIO, size: int) -> dict:
    """The file header as a dict of Python values; TraceFormatError when it cannot be one."""
    raw = file.read(layout.FILE_HEADER.itemsize)
    if len(raw) < layout.FILE_HEADER.itemsize:
        raise TraceFormatError(path, len(raw), f"the file ends inside its header: it has {len(raw)} bytes")
    fields = np.frombuffer(raw, layout.FILE_HEADER)[0]
    header = {name: fields[name].item() for name in layout.FILE_HEADER.names}
    _check_header(path, header)
    if size < header["header_bytes"]:
        raise TraceFormatError(path, size, f"the file has {size} bytes and its header page {header['header_bytes']}")
    if not math.isfinite(header["tick_period"]):
        header["tick_period"] = 0.0
    return header


def _next_data(file: BinaryIO, offset: int) -> int:
    try:
        return os.lseek(file.fileno(), offset, os.SEEK_DATA)
    except OSError as error:
        return sys.maxsize if error.errno == errno.ENXIO else offset


class Payloads:
    """Text behind records, joined to one array of bytes; `owners` are the positions of the records that have some."""

    def __init__(self, owners: np.ndarray, starts: np.ndarray, ends: np.ndarray, text: np.ndarray):
        self._owners, self._starts, self._ends, self._text = owners, starts, ends, text

    def spans(self, positions: np.ndarray, claimed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and length (int64[n] each) of the text of the records at `positions`: `claimed` bytes at most."""
        if not len(self._owners):
            return np.zeros(len(positions), np.int64), np.zeros(len(positions), np.int64)
        row = np.minimum(np.searchsorted(self._owners, positions), len(self._owners) - 1)
        room = np.where(self._owners[row] == positions, self._ends[row] - self._starts[row], 0)
        return self._starts[row], np.minimum(room, claimed.astype(np.int64))

    def bytes(self, start: int, length: int) -> bytes:
        return self._text[start : start + length].tobytes()


class Slots:
    """All published slots of one file.

    `header` is the file header; `size` the file's bytes; `chunks` the number of chunks in use; `counts` records by
    kind (int64[256]); `damage` what was wrong. Positions are indexes into the slots, in file order.
    """

    def __init__(self, path: str | os.PathLike):
        """Read a file. Raises TraceFormatError when it is no trace, OSError when it cannot be read."""
        self.path, self.damage = path, Damage()
        self.note = self.damage.note
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise TraceFormatError(path, 0, "this is not a regular file")
        with open(path, "rb", buffering=0) as file:
            self.size = os.fstat(file.fileno()).st_size
            self.header = read_header(path, file, self.size)
            offsets, counts = self._chunk_table(file)
            self._load(file, offsets, counts)
        self.chunks = len(self._chunk_starts)
        self._find_kinds()
        self._thread = self._find_threads()
        self.payloads = self._join_text()

    def note_loose_end(self, what: str, count: int) -> None:
        """Note records that lack another one. While a file grows they are natural: the other came after its count."""
        if self.header["state"] != layout.FileState.RECORDING:
            self.note(what, count)

    def _chunk_heads(self, file: BinaryIO) -> Iterator[tuple[int, np.void]]:
        first, step = self.header["header_bytes"], self.header["chunk_bytes"]
        offset = first
        while offset < self.size:
            raw = os.pread(file.fileno(), RECORD_BYTES, offset)
            if len(raw) < RECORD_BYTES:
                self.note("chunks cut off inside their header", 1, offset)
                break
            if any(raw[:4]) or any(raw[20:24]):
                yield offset, np.frombuffer(raw, layout.CHUNK_HEADER)[0]
                offset += step
            else:  # unused: a sparse file may claim terabytes of these
                offset = max(offset + step, first + (_next_data(file, offset + step) - first) // step * step)

    def _chunk_table(self, file: BinaryIO) -> tuple[list[int], list[int]]:
        capacity = self.header["chunk_bytes"] // RECORD_BYTES - 1
        offsets, counts = [], []
        for offset, head in self._chunk_heads(file):
            if head["magic"] != layout.CHUNK_MAGIC:
                self.note("chunks without a chunk's magic number, skipped", 1, offset)
                continue
            if head["type"] not in (layout.ChunkType.META, layout.ChunkType.EVENTS, layout.ChunkType.STATE):
                self.note("chunks of a type this reader does not know, skipped", 1, offset)
                continue
            count = int(head["count"])
            if count > capacity:
                self.note("chunks that claim more records than they have room for", 1, offset)
            there = (self.size - offset) // RECORD_BYTES - 1
            if min(count, capacity) > there:
                self.note("records cut off with the end of the file", min(count, capacity) - there, offset)
            offsets.append(offset)
            counts.append(min(count, capacity, there))
        self._note_missing_end()
        return offsets, counts

    def _note_missing_end(self) -> None:
        """A recorder that ends leaves whole chunks. A copy that stopped early can lack all the others, and still hold
        the End record, which is in an early chunk."""
        beyond = (self.size - self.header["header_bytes"]) % self.header["chunk_bytes"]
        if beyond:
            missing = "bytes missing from the chunk that the file ends in, and what came behind it"
            self.note_loose_end(missing, self.header["chunk_bytes"] - beyond)

    def _load(self, file: BinaryIO, offsets: list[int], counts: list[int]) -> None:
        ends = np.cumsum(np.array(counts, np.int64))
        self._chunk_starts = ends - np.array(counts, np.int64)
        self._raw = np.empty(int(ends[-1]) * RECORD_BYTES if len(ends) else 0, np.uint8)
        filled = memoryview(self._raw)
        for offset, start, end in zip(offsets, self._chunk_starts.tolist(), ends.tolist(), strict=True):
            file.seek(offset + RECORD_BYTES)
            part = filled[start * RECORD_BYTES : end * RECORD_BYTES]
            got = 0
            while got < len(part) and (more := file.readinto(part[got:])):
                got += more
            part[got:] = bytes(len(part) - got)

    def _find_kinds(self) -> None:
        self.kinds = self._raw[::RECORD_BYTES].copy()
        self.counts = np.bincount(self.kinds, minlength=256)
        known = np.zeros(256, bool)
        known[[*RECORDS, Kind.EMPTY]] = True
        self.note("empty slots among published records", self.counts[Kind.EMPTY])
        self.note("records of kinds that this reader does not know, skipped", self.counts[~known].sum())

    def _find_threads(self) -> np.ndarray:
        """Thread of each slot (uint32[slots]): that of the last Writer record before it in its chunk, else 0."""
        writers = self.positions(Kind.WRITER)
        starts = np.concatenate([self._chunk_starts, writers])
        threads = np.concatenate([np.zeros(self.chunks, np.uint32), self.rows(Kind.WRITER, writers)["thread"]])
        order = np.argsort(starts, kind="stable")
        lengths = np.diff(np.append(starts[order], len(self.kinds)))
        return np.repeat(threads[order], lengths)

    def _join_text(self) -> Payloads:
        """Join runs of Text records; a run belongs to the record before it in the same chunk."""
        at = self.positions(Kind.TEXT)
        first = np.ones(len(at), bool)
        first[1:] = np.diff(at) > 1
        headless = np.isin(at, self._chunk_starts)
        first |= headless
        claimed = self.column(Kind.TEXT, "bytes", at)
        self.note("Text records that claim more than they hold", (claimed > layout.TEXT_BYTES).sum())
        used = np.minimum(claimed, layout.TEXT_BYTES)
        text = np.empty(int(used.sum(dtype=np.int64)), np.uint8)
        ends = np.cumsum(used, dtype=np.int64)
        column = np.arange(layout.TEXT_BYTES)
        for part in (slice(i, i + BLOCK) for i in range(0, len(at), BLOCK)):
            letters = self.column(Kind.TEXT, "text", at[part]).view(np.uint8).reshape(-1, layout.TEXT_BYTES)
            begin = int(ends[part][0] - used[part][0])
            text[begin : int(ends[part][-1])] = letters[column < used[part, None]]
        run = np.flatnonzero(first)
        run_ends = ends[np.append(run[1:], len(at)) - 1] if len(at) else ends
        owned = ~headless[run]
        self.note("Text records at the head of a chunk, without an owner", (~owned).sum())
        starts = (ends - used)[run]
        return Payloads(at[run[owned]] - 1, starts[owned], run_ends[owned], text)

    def drop_records(self) -> None:
        """Free the slots; payloads, counts and damage stay."""
        self._raw = np.empty(0, np.uint8)

    def positions(self, kind: Kind) -> np.ndarray:
        """Where the records of a kind are (int64[n], ascending)."""
        return np.flatnonzero(self.kinds == kind)

    def rows(self, kind: Kind, positions: np.ndarray) -> np.ndarray:
        """Whole records of one kind, copied: an array of format.RECORDS[kind]."""
        return self._raw.view(RECORDS[kind]).take(positions)

    def column(self, kind: Kind, name: str, positions: np.ndarray) -> np.ndarray:
        """One field of the records at `positions`, copied."""
        return self._raw.view(RECORDS[kind])[name][positions]

    def take(self, kind: Kind, dtype: np.dtype, positions: np.ndarray, **sources: str) -> np.ndarray:
        """The records at `positions` as an array of another dtype.

        Fields are filled by name, or from the record's field that `sources` names; `thread` is the writing thread;
        fields without a source are 0.
        """
        raw = self._raw.view(RECORDS[kind])
        out = np.zeros(len(positions), dtype)
        pairs = [(name, sources.get(name, name)) for name in dtype.names]
        pairs = [(name, source) for name, source in pairs if source in RECORDS[kind].names]
        for part in (slice(i, i + BLOCK) for i in range(0, len(positions), BLOCK)):
            rows, into = raw.take(positions[part]), out[part]
            for name, source in pairs:
                into[name] = rows[source]
            if "thread" in dtype.names:
                into["thread"] = self._thread[positions[part]]
        return out

    def text_spans(self, kind: Kind, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and length in `payloads` of the text of these records; what claims too much is cut and noted."""
        claimed = self.column(kind, "text_bytes", positions)
        start, length = self.payloads.spans(positions, claimed)
        self.note(f"{kind.name.lower()} records whose text is cut short", (length < claimed).sum())
        return start, length
