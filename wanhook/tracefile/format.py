"""Layout of a wanhook trace file, format 1: the only Python file that knows offsets.

It mirrors ``csrc/core/record.h``; ``tests/unit/test_format.py`` compares the two, and both with
``docs/trace-format.md``. Everything is little-endian; a record is one 64-byte slot whose first byte is its kind.
Reserved bytes have no field here: they are never read.
"""

from __future__ import annotations

import os
from enum import IntEnum, IntFlag

import numpy as np

FILE_MAGIC = b"\x89WHK\r\n\x1a\n"
FORMAT_MAJOR = 1
FORMAT_MINOR = 0
HEADER_BYTES = 4096
CHUNK_BYTES = 256 * 1024
RECORD_BYTES = 64
CHUNK_MAGIC = 0x4B4E4843
TEXT_BYTES = 60
MAX_STRING_ID = 65535


class TraceFormatError(ValueError):
    """A file that cannot be read as a wanhook trace.

    ``path`` names the file, ``offset`` the byte at which reading ended, ``reason`` says what is wrong there.
    """

    def __init__(self, path: str | os.PathLike, offset: int, reason: str):
        super().__init__(path, offset, reason)
        self.path, self.offset, self.reason = path, offset, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} (at byte {self.offset})"


class FileState(IntEnum):
    RECORDING = 0
    STOPPED = 1
    FULL = 2
    DISK_FULL = 3
    FAILED = 4
    EXITED = 5


class ChunkType(IntEnum):
    UNUSED = 0
    META = 1
    EVENTS = 2
    STATE = 3


class Kind(IntEnum):
    EMPTY = 0
    TEXT = 1
    WRITER = 2
    META = 3
    STRING = 4
    GROUP = 5
    SCOPE_BEGIN = 8
    SCOPE_END = 9
    MARK = 10
    COLLECTIVE = 16
    COLLECTIVE_END = 17
    GPU_SPAN = 24
    KERNEL_SPAN = 25
    ALLOCATOR = 32
    STATE_BEGIN = 33
    SEGMENT_STATE = 34
    BLOCK_STATE = 35
    STATE_END = 36
    MEMORY_SAMPLE = 40
    DEVICE_SAMPLE = 41
    RECORDER_SAMPLE = 42
    ALLOCATOR_SAMPLE = 43
    CLOCK_ANCHOR = 48
    DROP = 56
    GATE = 57
    END = 63


class ScopeLevel(IntEnum):
    STAGE = 0
    BLOCK = 1
    OP = 2


class ScopeType(IntEnum):
    TRACE = 0
    WAIT = 1


class ScopeVerify(IntEnum):
    NONE = 0
    RECORDED = 1
    MUTED = 2


class ScopeEndFlags(IntFlag):
    EXCEPTION = 1
    CLOSED_BY_OUTER = 2


class CollectiveFlags(IntFlag):
    ASYNC = 1
    P2P = 2
    CAPTURED = 4
    COALESCED = 8
    TIMED = 16
    GROUP = 32
    AROUND_EVENTS = 64


class CollectiveEndFlags(IntFlag):
    UNTIMED = 1


class CollectivePhase(IntEnum):
    RETURNED = 1
    COMPLETED = 2
    FAILED = 3


class SpanOwner(IntEnum):
    SCOPE = 1
    COLLECTIVE = 2


class SpanClass(IntEnum):
    UNKNOWN = 0
    BUSY_ALONE = 1
    OVERLAPPED = 2
    IDLE = 3


class AllocatorAction(IntEnum):
    UNKNOWN = 0
    ALLOC = 1
    FREE_REQUESTED = 2
    FREE_COMPLETED = 3
    SEGMENT_ALLOC = 4
    SEGMENT_FREE = 5
    SEGMENT_MAP = 6
    SEGMENT_UNMAP = 7
    SNAPSHOT = 8
    OOM = 9
    ANNOTATE = 10


class AllocatorFlags(IntFlag):
    FREE_FOLDED = 1


class StateReason(IntEnum):
    START = 1
    STOP = 2
    RESYNC = 3
    RESUME = 4
    CHECKPOINT = 5


class SegmentFlags(IntFlag):
    LARGE = 1
    EXPANDABLE = 2


class BlockState(IntEnum):
    ALLOCATED = 1
    PENDING_FREE = 2
    INACTIVE = 3


class SampleEdge(IntEnum):
    PERIODIC = 0
    SCOPE_BEGIN = 1
    SCOPE_END = 2
    START = 3
    STOP = 4


class ClockFlags(IntFlag):
    HOST = 1
    GPU = 2


class DropReason(IntEnum):
    NO_CHUNK_READY = 1
    CAPACITY = 2
    DISK = 3


def _layout(size: int, fields: dict[str, tuple[int, str]]) -> np.dtype:
    return np.dtype(
        {
            "names": list(fields),
            "formats": [np.dtype(form).newbyteorder("<") for _, form in fields.values()],
            "offsets": [offset for offset, _ in fields.values()],
            "itemsize": size,
        }
    )


def _record(**fields: tuple[int, str]) -> np.dtype:
    return _layout(RECORD_BYTES, {"kind": (0, "u1"), **fields})


FILE_HEADER = _layout(
    96,
    {
        "magic": (0, "S8"),
        "major": (8, "u2"),
        "minor": (10, "u2"),
        "header_bytes": (12, "u4"),
        "chunk_bytes": (16, "u4"),
        "record_bytes": (20, "u4"),
        "capacity_bytes": (24, "u8"),
        "pid": (32, "u4"),
        "life": (36, "u4"),
        "start_tick": (40, "u8"),
        "start_monotonic": (48, "i8"),
        "start_realtime": (56, "i8"),
        "tick_period": (64, "f8"),
        "state": (72, "u4"),
        "error": (76, "u4"),
        "dropped": (80, "u8"),
        "heartbeat": (88, "i8"),
    },
)

CHUNK_HEADER = _layout(
    RECORD_BYTES,
    {
        "magic": (0, "u4"),
        "type": (4, "u1"),
        "sequence": (8, "u8"),
        "generation": (16, "u4"),
        "count": (20, "u4"),
        "first_tick": (24, "u8"),
    },
)

RECORDS: dict[Kind, np.dtype] = {
    Kind.TEXT: _record(bytes=(2, "u2"), text=(4, f"V{TEXT_BYTES}")),
    Kind.WRITER: _record(thread=(4, "u4"), tick=(8, "u8"), tid=(16, "u8"), name=(24, "S40")),
    Kind.META: _record(text_bytes=(4, "u4"), tick=(8, "u8")),
    Kind.STRING: _record(id=(4, "u4"), text_bytes=(8, "u4")),
    Kind.GROUP: _record(
        group=(2, "u2"), name=(4, "u4"), backend=(8, "u4"), rank=(12, "i4"), size=(16, "i4"), text_bytes=(20, "u4")
    ),
    Kind.SCOPE_BEGIN: _record(
        level=(1, "u1"),
        type=(2, "u1"),
        device=(3, "i1"),
        name=(4, "u4"),
        tick=(8, "u8"),
        id=(16, "u4"),
        parent=(20, "u4"),
        stream=(24, "u8"),
        request=(32, "u4"),
        text_bytes=(36, "u4"),
        timed=(40, "u1"),
        verify=(41, "u1"),
    ),
    Kind.SCOPE_END: _record(flags=(1, "u1"), id=(4, "u4"), tick=(8, "u8")),
    Kind.MARK: _record(name=(4, "u4"), tick=(8, "u8"), scope=(16, "u4"), text_bytes=(20, "u4"), request=(24, "u4")),
    Kind.COLLECTIVE: _record(
        flags=(1, "u1"),
        op=(2, "u2"),
        role=(4, "u2"),
        group=(6, "u2"),
        tick=(8, "u8"),
        id=(16, "u4"),
        scope=(20, "u4"),
        bytes_in=(24, "u8"),
        bytes_out=(32, "u8"),
        stream=(40, "u8"),
        sequence=(48, "u4"),
        peer=(52, "i4"),
        tensors=(56, "u2"),
        dtype=(58, "u1"),
        device=(59, "i1"),
        coalesced=(60, "u4"),
    ),
    Kind.COLLECTIVE_END: _record(phase=(1, "u1"), flags=(2, "u1"), id=(4, "u4"), tick=(8, "u8"), unit=(16, "u2")),
    Kind.GPU_SPAN: _record(
        span_class=(1, "u1"),
        owner_type=(2, "u1"),
        device=(3, "i1"),
        owner=(4, "u4"),
        begin=(8, "i8"),
        end=(16, "i8"),
        stream=(24, "u8"),
        begin_slack=(32, "u4"),
        end_slack=(36, "u4"),
        reference=(40, "u4"),
    ),
    Kind.KERNEL_SPAN: _record(
        device=(3, "i1"),
        name=(4, "u4"),
        begin=(8, "i8"),
        end=(16, "i8"),
        launch=(24, "i8"),
        stream_number=(32, "u8"),
        window=(40, "u4"),
    ),
    Kind.ALLOCATOR: _record(
        action=(1, "u1"),
        device=(2, "i1"),
        flags=(3, "u1"),
        scope=(4, "u4"),
        tick=(8, "u8"),
        sequence=(16, "u8"),
        address=(24, "u8"),
        size=(32, "u8"),
        stream=(40, "u8"),
        pool=(48, "u4"),
        completed_after=(52, "u4"),
        stack=(56, "u4"),
    ),
    Kind.STATE_BEGIN: _record(
        reason=(1, "u1"),
        device=(2, "i1"),
        snapshot=(4, "u4"),
        tick=(8, "u8"),
        sequence=(16, "u8"),
        allocated=(24, "u8"),
        reserved_bytes=(32, "u8"),
        active=(40, "u8"),
        requested=(48, "u8"),
        segments=(56, "u4"),
        blocks=(60, "u4"),
    ),
    Kind.SEGMENT_STATE: _record(
        flags=(1, "u1"),
        device=(2, "i1"),
        snapshot=(4, "u4"),
        address=(8, "u8"),
        total=(16, "u8"),
        allocated=(24, "u8"),
        active=(32, "u8"),
        requested=(40, "u8"),
        stream=(48, "u8"),
        pool=(56, "u4"),
        blocks=(60, "u4"),
    ),
    Kind.BLOCK_STATE: _record(
        state=(1, "u1"),
        device=(2, "i1"),
        snapshot=(4, "u4"),
        address=(8, "u8"),
        size=(16, "u8"),
        requested=(24, "u8"),
        segment=(32, "u8"),
        stack=(40, "u4"),
        scope=(44, "u4"),
    ),
    Kind.STATE_END: _record(device=(2, "i1"), snapshot=(4, "u4"), tick=(8, "u8")),
    Kind.MEMORY_SAMPLE: _record(
        edge=(1, "u1"),
        device=(2, "i1"),
        scope=(4, "u4"),
        tick=(8, "u8"),
        allocated=(16, "u8"),
        reserved_bytes=(24, "u8"),
        active=(32, "u8"),
        requested=(40, "u8"),
        device_free=(48, "u8"),
        device_total=(56, "u8"),
    ),
    Kind.ALLOCATOR_SAMPLE: _record(
        edge=(1, "u1"),
        device=(2, "i1"),
        sequence=(4, "u4"),
        tick=(8, "u8"),
        inactive_split=(16, "u8"),
        retries=(24, "u8"),
        ooms=(32, "u8"),
        sync_all_streams=(40, "u8"),
        device_allocs=(48, "u8"),
        device_frees=(56, "u8"),
    ),
    Kind.DEVICE_SAMPLE: _record(
        valid=(1, "u1"),
        device=(2, "i1"),
        sm_clock=(4, "u4"),
        tick=(8, "u8"),
        throttle=(16, "u8"),
        memory_clock=(24, "u4"),
        power=(28, "u4"),
        temperature=(32, "u4"),
        cost=(36, "u4"),
    ),
    Kind.RECORDER_SAMPLE: _record(
        chunks_used=(4, "u4"),
        tick=(8, "u8"),
        resolver_cpu=(16, "u8"),
        process_cpu=(24, "u8"),
        dropped=(32, "u8"),
        chunks_ready=(40, "u4"),
        spans_pending=(44, "u4"),
        resident=(48, "u8"),
    ),
    Kind.CLOCK_ANCHOR: _record(
        flags=(1, "u1"),
        device=(2, "i1"),
        reference=(4, "u4"),
        tick=(8, "u8"),
        tick_after=(16, "u8"),
        monotonic=(24, "i8"),
        realtime=(32, "i8"),
        gpu=(40, "i8"),
    ),
    Kind.DROP: _record(reason=(1, "u1"), tick=(8, "u8"), total=(16, "u8")),
    Kind.GATE: _record(open=(1, "u1"), tick=(8, "u8")),
    Kind.END: _record(state=(1, "u1"), error=(4, "u4"), tick=(8, "u8"), dropped=(16, "u8"), unresolved=(24, "u8")),
}
