"""How a recording fared: what was lost, whether its process lives, what it cost."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field

from .clock import LIMIT, SECOND
from .format import CollectiveFlags, FileState, Kind
from .names import section

FRESH = 10 * SECOND  # a recorder beats every 10 ms: one that beat within these ns is at work

STATES = {int(state): state.name.lower().replace("_", " ") for state in FileState}


@dataclass(frozen=True)
class Health:
    """State of one rank's recording.

    `state`: "recording", "stopped", "full", "disk full", "failed", "exited" or, in a damaged file, "unknown".
    `alive`: whether the recording process exists; None when that cannot be told from here. `crashed`: it was still
    recording and is gone; None when it cannot be told. `last_time` is the last moment the file tells of (ns,
    CLOCK_MONOTONIC), `wall` the ns from the start to it. `records` and `chunks` count what the file holds (payloads
    are records too), `dropped` the records that were lost, `unresolved` the GPU intervals that were given up or, in a
    file without an end, are still missing. `resolver_cpu` and `process_cpu` are ns of CPU time, `bytes` is the file's
    size, `error` the errno behind "disk full" and "failed". `damage` has one sentence for each sort of damage.
    """

    state: str
    crashed: bool | None
    alive: bool | None
    last_time: int
    dropped: int
    unresolved: int
    records: int
    chunks: int
    resolver_cpu: int
    process_cpu: int
    wall: int
    bytes: int
    error: int = 0
    damage: list[str] = field(default_factory=list)


class Machine:
    """What this machine can say about the process that wrote a file. Tests hand in another one."""

    def host(self) -> str:
        return socket.gethostname()

    def boot_id(self) -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                return file.read().strip()
        except OSError:
            return ""

    def pid_namespace(self) -> str:
        try:
            return os.readlink("/proc/self/ns/pid")
        except OSError:
            return ""

    def realtime(self) -> int:
        """ns since the Unix epoch."""
        return time.time_ns()

    def process_began(self, pid: int) -> int | None:
        """When the process with this id began (ns, CLOCK_MONOTONIC); None when there is none, or only a zombie."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        if len(fields) < 20 or fields[0] in (b"Z", b"X"):
            return None
        suspended = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return int(fields[19]) * SECOND // os.sysconf("SC_CLK_TCK") - suspended


def process_alive(machine: Machine, header: dict, meta: dict, heartbeat_realtime: int) -> bool | None:
    """Whether the process that wrote this file lives; None when that cannot be told from here."""
    process = section(meta, "process")
    here = process.get("host") == machine.host() and bool(process.get("boot_id"))
    rebooted = here and process["boot_id"] != machine.boot_id()
    visible = process.get("pid_namespace", machine.pid_namespace()) == machine.pid_namespace()
    if here and visible and not rebooted:
        began = machine.process_began(header["pid"])
        # The id may have gone to another process since: one that began after this recording did not write it.
        return began is not None and began <= header["start_monotonic"] + SECOND
    beats = header["state"] == FileState.RECORDING and abs(machine.realtime() - heartbeat_realtime) < FRESH
    return True if beats else False if rebooted else None


def has_crashed(state: int, alive: bool | None) -> bool | None:
    if state != FileState.RECORDING:
        return False if state in STATES else None
    return None if alive is None else not alive


def _last_time(trace) -> int:
    heard = min(max(trace.header["heartbeat"], trace.header["start_monotonic"], 0), LIMIT)
    columns = [trace.scopes["begin"], trace.scopes["end"], trace.collectives["begin"], trace.allocator_events["time"]]
    columns += [table["time"] for table in (trace.marks, trace.memory_samples, trace.anchors, trace.ends)]
    # A damaged tick can lie centuries ahead; the resolver's heartbeat never lags by a minute while records are written.
    bound = heard + 60 * SECOND
    return max([heard, *(int(column.max(initial=0, where=column <= bound)) for column in columns)])


def _dropped(trace) -> int:
    tables = ((trace.ends, "dropped"), (trace.drops, "total"), (trace.recorder_samples, "dropped"))
    return max([trace.header["dropped"], *(int(table[name].max(initial=0)) for table, name in tables)])


def _unresolved(trace) -> int:
    if len(trace.ends):
        return int(trace.ends["unresolved"][-1])
    scopes, calls = trace.scopes, trace.collectives
    untimed = scopes["timed"] & ~scopes["open"] & (scopes["gpu_end"] < 0)
    timed = (calls["flags"] & CollectiveFlags.TIMED) != 0
    return int(untimed.sum() + (timed & (calls["device"] >= 0) & (calls["gpu_end"] < 0)).sum())


def examine(trace, slots, machine: Machine) -> Health:
    """Health of a trace whose tables are read."""
    header, samples = trace.header, trace.recorder_samples
    last = _last_time(trace)
    alive = process_alive(machine, header, trace.meta, trace.clock.to_realtime(header["heartbeat"]))
    return Health(
        state=STATES.get(header["state"], "unknown"),
        crashed=has_crashed(header["state"], alive),
        alive=alive,
        last_time=last,
        dropped=_dropped(trace),
        unresolved=_unresolved(trace),
        records=int(len(slots.kinds) - slots.counts[Kind.EMPTY]),
        chunks=slots.chunks,
        resolver_cpu=int(samples["resolver_cpu"][-1]) if len(samples) else 0,
        process_cpu=int(samples["process_cpu"][-1]) if len(samples) else 0,
        wall=max(last - header["start_monotonic"], 0),
        bytes=slots.size,
        error=header["error"],
        damage=slots.damage.lines(),
    )
