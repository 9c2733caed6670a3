"""Made-up trace files: what a recorder would have written, with every tick and every nanosecond chosen by the test.

    builder = TraceBuilder(rank=0, world_size=2)
    request = builder.scope("request", 0, 5_000, gpu=(100, 5_200))
    builder.collective("alltoall_base_", 1_000, returned=1_020, gpu=(1_100, 1_200), scope=request, bytes_in=4096)
    builder.alloc(0x1000, 512, at=1_500, scope=request)
    builder.save(directory / "rank00000-1-0.wanhook")

All times are ns after the start of the recording, host and GPU alike; `TraceBuilder.start` is added by the reader.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from wanhook.tracefile import format as layout
from wanhook.tracefile.format import RECORDS, AllocatorAction, AllocatorFlags, CollectiveFlags, CollectivePhase, Kind

META_KINDS = {Kind.META, Kind.STRING, Kind.GROUP}
STATE_KINDS = {Kind.STATE_BEGIN, Kind.SEGMENT_STATE, Kind.BLOCK_STATE, Kind.STATE_END}


class TraceBuilder:
    """Collects records and writes them as one trace file.

    `start` and `start_realtime` are the two clocks' ns at time 0; `tick_period` is ns a tick. `meta` is merged over
    the usual meta object. `anchors=False` leaves out the clock anchors that `save` adds at time 0 and at the last time.
    """

    def __init__(
        self,
        rank: int | None = 0,
        world_size: int | None = 1,
        *,
        run_id: str = "run-a",
        device: str = "cuda",
        device_index: int = 0,
        pid: int = 4242,
        life: int = 0,
        start: int = 1_000_000_000_000,
        start_realtime: int = 1_700_000_000_000_000_000,
        start_tick: int = 5_000_000_000,
        tick_period: float = 0.5,
        gpu_origin: int = 0,
        state: layout.FileState = layout.FileState.STOPPED,
        chunk_bytes: int = 4096,
        anchors: bool = True,
        meta: dict | None = None,
    ):
        self.start, self.start_realtime = start, start_realtime
        self.start_tick, self.tick_period = start_tick, tick_period
        self.device = device_index if device == "cuda" else -1
        self.gpu_origin = gpu_origin
        self.anchors = anchors
        self.last = 0
        self.header = {
            "magic": layout.FILE_MAGIC,
            "major": layout.FORMAT_MAJOR,
            "minor": layout.FORMAT_MINOR,
            "header_bytes": layout.HEADER_BYTES,
            "chunk_bytes": chunk_bytes,
            "record_bytes": layout.RECORD_BYTES,
            "capacity_bytes": 2 << 30,
            "pid": pid,
            "life": life,
            "start_tick": start_tick,
            "start_monotonic": start,
            "start_realtime": start_realtime,
            "tick_period": tick_period,
            "state": state,
        }
        self._chunks: list[tuple[np.ndarray, list[bytes]]] = []
        self._open: dict[tuple[int, int], int] = {}
        self._strings: dict[str, int] = {"": 0}
        self._groups: dict[str, int] = {}
        self._sequence: Counter = Counter()
        self._allocator_sequence: Counter = Counter()
        self._ids = self._snapshots = 0
        self.meta(
            {
                "wanhook": {"version": "0.1.0", "level": "op", "torch_built": "2.11.0"},
                "run": {"id": run_id, "name": "made", "restart": 0, "recording": life, "started_by": "trace"},
                "rank": {"rank": rank, "world_size": world_size, "local_rank": rank, "local_world_size": world_size},
                "process": {"pid": pid, "host": "made-host", "boot_id": "made-boot", "python": "3.12.3"},
                "versions": {"torch": "2.11.0", "cuda": "13.0", "nccl": "2.28.9", "driver": "580.159"},
                "device": {"type": device, "index": device_index, "name": "Made GPU", "total_memory": 1 << 37},
                "allocator": {"backend": "native", "settings": ""},
            }
        )
        if meta:
            self.meta(meta)

    # Ground floor: ticks, chunks, records.

    def tick(self, at: int) -> int:
        """Tick of `at` (ns after the start); the heartbeat follows the latest moment that was asked for."""
        self.last = max(self.last, at)
        return self.raw_tick(at)

    def raw_tick(self, at: int) -> int:
        return self.start_tick + round(at / self.tick_period)

    def record(self, kind: Kind, text: bytes = b"", *, thread: int = 1, **fields) -> None:
        """Append one record, and its payload in Text records. `fields` are named as in format.RECORDS."""
        row = np.zeros(1, RECORDS[kind])
        if "text_bytes" in row.dtype.names:
            row["text_bytes"] = len(text)
        for name, value in {"kind": kind, **fields}.items():
            row[name] = value
        slots = [row.tobytes()]
        for at in range(0, len(text), layout.TEXT_BYTES):
            piece = text[at : at + layout.TEXT_BYTES]
            slots.append(
                bytes([Kind.TEXT, 0]) + len(piece).to_bytes(2, "little") + piece.ljust(layout.TEXT_BYTES, b"\0")
            )
        self._append(slots, thread, self._chunk_type(kind))

    def rows(self, rows: np.ndarray, *, thread: int = 1) -> None:
        """Append many records at once: an array of one of the dtypes in format.RECORDS."""
        raw = np.ascontiguousarray(rows).view(f"V{layout.RECORD_BYTES}").tobytes()
        kind = self._chunk_type(Kind(int(rows["kind"][0])))
        while raw:
            room = self._room(thread, kind) * layout.RECORD_BYTES
            self._append([raw[:room]], thread, kind)
            raw = raw[room:]

    @staticmethod
    def _chunk_type(kind: Kind) -> layout.ChunkType:
        if kind in META_KINDS:
            return layout.ChunkType.META
        return layout.ChunkType.STATE if kind in STATE_KINDS else layout.ChunkType.EVENTS

    def _room(self, thread: int, kind: int) -> int:
        capacity = self.header["chunk_bytes"] // layout.RECORD_BYTES - 1
        index = self._open.get((thread, kind))
        used = int(self._chunks[index][0]["count"][0]) if index is not None else capacity
        return capacity - used or capacity - 1

    def _append(self, slots: list[bytes], thread: int, kind: int) -> None:
        capacity = self.header["chunk_bytes"] // layout.RECORD_BYTES - 1
        needed = sum(len(slot) for slot in slots) // layout.RECORD_BYTES
        if needed > capacity - 1:
            raise ValueError(f"{needed} slots do not fit a chunk of {self.header['chunk_bytes']} bytes")
        index = self._open.get((thread, kind))
        if index is None or int(self._chunks[index][0]["count"][0]) + needed > capacity:
            index = self._open[thread, kind] = self._take_chunk(thread, kind)
        header, written = self._chunks[index]
        written.extend(slots)
        header["count"] += needed

    def _take_chunk(self, thread: int, kind: int) -> int:
        header = np.zeros(1, layout.CHUNK_HEADER)
        header["magic"], header["type"], header["sequence"] = layout.CHUNK_MAGIC, kind, len(self._chunks)
        header["first_tick"] = self.tick(self.last)
        writer = np.zeros(1, RECORDS[Kind.WRITER])
        writer["kind"], writer["thread"], writer["tid"] = Kind.WRITER, thread, 1000 + thread
        writer["tick"], writer["name"] = header["first_tick"], f"thread-{thread}".encode()
        header["count"] = 1
        self._chunks.append((header, [writer.tobytes()]))
        return len(self._chunks) - 1

    # Names.

    def meta(self, entries: dict) -> None:
        self.record(Kind.META, json.dumps(entries).encode(), tick=self.tick(0))

    def string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = len(self._strings)
            self.record(Kind.STRING, text.encode(), id=self._strings[text])
        return self._strings[text]

    def group(
        self,
        name: str = "0",
        ranks: tuple[int, ...] = (0,),
        *,
        backend: str = "nccl",
        rank: int = 0,
        description: str = "",
    ) -> int:
        """Number of the group of this name; its record is written at the first call."""
        if name not in self._groups:
            self._groups[name] = len(self._groups) + 1
            members = np.asarray(ranks, "<u4").tobytes()
            fields = {"rank": rank, "size": len(ranks), "name": self.string(name), "backend": self.string(backend)}
            self.record(Kind.GROUP, members, group=self._groups[name], **fields)
            self.meta({"groups": {name: {"ranks": list(ranks), "backend": backend, "description": description}}})
        return self._groups[name]

    # What happened.

    def scope(
        self,
        name: str,
        begin: int,
        end: int | None = None,
        *,
        gpu: tuple[int, int] | None = None,
        parent: int = 0,
        level: str = "stage",
        type: str = "trace",
        args: dict | None = None,
        request: int = 1,
        stream: int = 7,
        flags: int = 0,
        verify: str = "none",
        thread: int = 1,
    ) -> int:
        """A scope and its end (None: still open) and its GPU interval; returns its id."""
        self._ids += 1
        number = self._ids
        fields = {"level": layout.ScopeLevel[level.upper()], "type": layout.ScopeType[type.upper()]}
        fields |= {"verify": layout.ScopeVerify[verify.upper()]}
        fields |= {"device": self.device, "name": self.string(name), "tick": self.tick(begin), "parent": parent}
        fields |= {"stream": stream, "request": request, "timed": self.device >= 0}
        self.record(Kind.SCOPE_BEGIN, json.dumps(args).encode() if args else b"", thread=thread, id=number, **fields)
        if end is not None:
            self.record(Kind.SCOPE_END, thread=thread, id=number, tick=self.tick(end), flags=flags)
        if gpu is not None:
            self.gpu_span(layout.SpanOwner.SCOPE, number, gpu, stream=stream)
        return number

    def mark(self, name: str, at: int, *, scope: int = 0, args: dict | None = None, thread: int = 1) -> None:
        text = json.dumps(args).encode() if args else b""
        self.record(Kind.MARK, text, thread=thread, name=self.string(name), tick=self.tick(at), scope=scope)

    def collective(
        self,
        op: str,
        begin: int,
        *,
        returned: int | None = None,
        completed: int | None = None,
        failed: int | None = None,
        gpu: tuple[int, int] | None = None,
        role: str = "",
        unit: str = "",
        group: int = 1,
        scope: int = 0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        sequence: int | None = None,
        peer: int = -1,
        tensors: int = 1,
        dtype: int = 15,
        stream: int = 7,
        flags: int = 0,
        coalesced: int = 0,
        span_class: int = 0,
        begin_slack: int = 0,
        end_slack: int = 0,
        thread: int = 1,
    ) -> int:
        """A collective call, the ends that are not None, and its GPU interval; returns its id. `returned` tells the
        unit."""
        self._ids += 1
        number = self._ids
        flags |= CollectiveFlags.TIMED if gpu or completed is not None else 0
        counter = (group, bool(flags & CollectiveFlags.P2P))
        self._sequence[counter] += 1
        fields = {"flags": flags, "op": self.string(op), "role": self.string(role), "group": group, "scope": scope}
        fields |= {"bytes_in": bytes_in, "bytes_out": bytes_out, "stream": stream if self.device >= 0 else 0}
        fields |= {"sequence": self._sequence[counter] if sequence is None else sequence, "peer": peer}
        fields |= {"tensors": tensors, "dtype": dtype, "device": self.device, "coalesced": coalesced}
        self.record(Kind.COLLECTIVE, thread=thread, id=number, tick=self.tick(begin), **fields)
        for phase, at in zip(CollectivePhase, (returned, completed, failed), strict=True):
            if at is not None:
                told = {"unit": self.string(unit)} if phase is CollectivePhase.RETURNED else {}
                self.record(Kind.COLLECTIVE_END, thread=thread, id=number, phase=phase, tick=self.tick(at), **told)
        if gpu is not None:
            bounds = {"span_class": span_class, "begin_slack": begin_slack, "end_slack": end_slack}
            self.gpu_span(layout.SpanOwner.COLLECTIVE, number, gpu, stream=stream, **bounds)
        return number

    def gpu_span(self, owner_type: int, owner: int, gpu: tuple[int, int], *, stream: int = 7, **bounds) -> None:
        self.last = max(self.last, gpu[1])
        begin, end = gpu[0] - self.gpu_origin, gpu[1] - self.gpu_origin
        fields = {"owner_type": owner_type, "owner": owner, "device": self.device, "stream": stream}
        self.record(Kind.GPU_SPAN, begin=begin, end=end, **fields, **bounds)

    def kernel(self, name: str, begin: int, end: int, *, launch: int | None = None, window: int = 0, **fields) -> None:
        """A kernel of NCCL; `launch` None: the file does not tell it."""
        self.last = max(self.last, end)
        times = {"begin": self.start_realtime + begin, "end": self.start_realtime + end}
        times["launch"] = 0 if launch is None else self.start_realtime + launch
        fields = {"device": self.device, "stream_number": 13, **fields}
        self.record(Kind.KERNEL_SPAN, name=self.string(name), window=window, **times, **fields)

    def kernel_window(self, begin: int, end: int, *, name: str = "denoise_step", instance: int = 2, **about) -> None:
        """What the meta object says of the window in which kernels were recorded."""
        about = {"name": name, "instance": instance, "gpu_finished": True, "opening": 0, "closing": 0, **about}
        times = {"begin": self.start_realtime + begin, "end": self.start_realtime + end}
        self.meta({"kernel_window": {**about, **times}})

    # Memory.

    def allocator(
        self,
        action: AllocatorAction,
        address: int,
        size: int,
        at: int,
        *,
        device: int | None = None,
        thread: int = 1,
        **fields,
    ) -> int:
        """One allocator event; returns its sequence number on its device. `fields`: scope, stream, pool, flags, …"""
        device = self.device if device is None else device
        self._allocator_sequence[device] += 1
        fields = {"sequence": self._allocator_sequence[device], "stream": 7, **fields}
        place = {"address": address, "size": size, "tick": self.tick(at), "device": device}
        self.record(Kind.ALLOCATOR, thread=thread, action=action, **place, **fields)
        return int(fields["sequence"])

    def alloc(self, address: int, size: int, at: int, **fields) -> int:
        return self.allocator(AllocatorAction.ALLOC, address, size, at, **fields)

    def free(self, address: int, size: int, at: int, *, completed: int | None = None, **fields) -> int:
        """A requested free. `completed` (ns after the start) folds its completion into it, as the recorder does."""
        if completed is not None:
            fields |= {"flags": AllocatorFlags.FREE_FOLDED, "completed_after": self.tick(completed) - self.tick(at)}
        return self.allocator(AllocatorAction.FREE_REQUESTED, address, size, at, **fields)

    def segment(self, address: int, size: int, at: int, **fields) -> int:
        return self.allocator(AllocatorAction.SEGMENT_ALLOC, address, size, at, **fields)

    def snapshot(
        self,
        at: int,
        segments: list[dict] = (),
        blocks: list[dict] = (),
        *,
        reason: str = "start",
        complete: bool = True,
        sequence: int | None = None,
        device: int | None = None,
        **totals,
    ) -> int:
        """The allocator's state; `segments` and `blocks` are fields of their records; returns the snapshot's number."""
        device = self.device if device is None else device
        if sequence is None:
            sequence = self.allocator(AllocatorAction.SNAPSHOT, 0, 0, at, device=device)
        self._snapshots += 1
        where = {"snapshot": self._snapshots, "device": device}
        counts = {"segments": len(segments), "blocks": len(blocks), "reason": layout.StateReason[reason.upper()]}
        self.record(Kind.STATE_BEGIN, tick=self.tick(at), sequence=sequence, **where, **counts, **totals)
        for segment in segments:
            self.record(Kind.SEGMENT_STATE, **where, **segment)
        for block in blocks:
            self.record(Kind.BLOCK_STATE, **where, **{"state": layout.BlockState.ALLOCATED, **block})
        if complete:
            self.record(Kind.STATE_END, tick=self.tick(at), **where)
        return self._snapshots

    # Samples and the recorder itself.

    def sample(self, at: int, *, edge: str = "periodic", device: int | None = None, scope: int = 0, **fields) -> None:
        """A memory sample and, when a field of AllocatorSample's own is among `fields`, the allocator sample beside it.
        `sequence`: number of the last allocator event before the reading."""
        where = {"edge": layout.SampleEdge[edge.upper()], "device": self.device if device is None else device}
        where |= {"tick": self.tick(at)}
        fields |= {"scope": scope}
        for kind in (Kind.MEMORY_SAMPLE, Kind.ALLOCATOR_SAMPLE):
            own = {name: value for name, value in fields.items() if name in RECORDS[kind].names}
            if own or kind is Kind.MEMORY_SAMPLE:
                self.record(kind, **where, **own)

    def device_sample(self, at: int, *, valid: int = 15, device: int | None = None, **fields) -> None:
        device = self.device if device is None else device
        self.record(Kind.DEVICE_SAMPLE, tick=self.tick(at), valid=valid, device=device, **fields)

    def recorder_sample(self, at: int, **fields) -> None:
        self.record(Kind.RECORDER_SAMPLE, tick=self.tick(at), **fields)

    def anchor(self, at: int, *, width: int = 40, realtime_shift: int = 0) -> None:
        """A host anchor whose two ticks lie `width` ns apart around `at`."""
        times = {"monotonic": self.start + at, "realtime": self.start_realtime + at + realtime_shift}
        ticks = {"tick": self.raw_tick(at - width // 2), "tick_after": self.raw_tick(at + width // 2)}
        self.record(Kind.CLOCK_ANCHOR, flags=layout.ClockFlags.HOST, device=-1, **ticks, **times)

    def gpu_anchor(
        self, at: int, *, width: int = 8_000, gpu: int | None = None, reference: int = 0, device=None
    ) -> None:
        """A GPU anchor: the device stood at `gpu` (by default: exactly `at`) somewhere in `width` ns around `at`."""
        ticks = {"tick": self.raw_tick(at - width // 2), "tick_after": self.raw_tick(at + width // 2)}
        where = {"device": self.device if device is None else device, "reference": reference}
        gpu = (at if gpu is None else gpu) - self.gpu_origin
        self.record(Kind.CLOCK_ANCHOR, flags=layout.ClockFlags.GPU, gpu=gpu, **where, **ticks)

    def drop(self, at: int, total: int, reason: str = "no_chunk_ready") -> None:
        self.header["dropped"] = total
        self.record(Kind.DROP, tick=self.tick(at), total=total, reason=layout.DropReason[reason.upper()])

    def gate(self, at: int, open: bool) -> None:
        self.record(Kind.GATE, tick=self.tick(at), open=open)

    def end(self, at: int, *, state: str = "stopped", **fields) -> None:
        """The End record, and the same state in the header."""
        self.header["state"] = layout.FileState[state.upper()]
        self.record(Kind.END, tick=self.tick(at), state=self.header["state"], **fields)

    # Out.

    def to_bytes(self) -> bytes:
        if self.anchors:
            self.anchors = False
            last = max(self.last, 1_000_000)
            for at in (0, last):
                self.anchor(at)
                if self.device >= 0:
                    self.gpu_anchor(at)
        header = np.zeros(1, layout.FILE_HEADER)
        for name, value in {"heartbeat": self.start + self.last, **self.header}.items():
            header[name] = value
        chunk_bytes = self.header["chunk_bytes"]
        chunks = [(head.tobytes() + b"".join(slots)).ljust(chunk_bytes, b"\0") for head, slots in self._chunks]
        return header.tobytes().ljust(layout.HEADER_BYTES, b"\0") + b"".join(chunks)

    def save(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path
