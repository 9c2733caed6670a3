"""Whether a recording's process lives, and what the file tells of its end. The machine is made up."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from made_trace import TraceBuilder
from wanhook.tracefile.format import FileState
from wanhook.tracefile.health import Machine
from wanhook.tracefile.model import load

START = 1_000_000_000_000
NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@dataclasses.dataclass
class MadeMachine:
    """A machine with at most one process, which began at `began` (ns, CLOCK_MONOTONIC)."""

    began: int | None = START - SECOND
    name: str = "made-host"
    boot: str = "made-boot"
    namespace: str = "pid:[1]"
    now: int = NOW + 3_600 * SECOND

    def host(self) -> str:
        return self.name

    def boot_id(self) -> str:
        return self.boot

    def pid_namespace(self) -> str:
        return self.namespace

    def realtime(self) -> int:
        return self.now

    def process_began(self, pid: int) -> int | None:
        assert pid == 4242
        return self.began


@pytest.fixture
def health(tmp_path):
    def health(machine, builder: TraceBuilder | None = None, **options):
        builder = builder or TraceBuilder(state=FileState.RECORDING, **options)
        return load(builder.save(tmp_path / "a.wanhook"), machine=machine).traces[0].health

    return health


@pytest.mark.parametrize(
    ("machine", "alive", "crashed"),
    [
        (MadeMachine(), True, False),
        (MadeMachine(began=None), False, True),
        (MadeMachine(began=START + 60 * SECOND), False, True),  # the pid went to another process
        (MadeMachine(began=START + SECOND // 2), True, False),  # process times count in hundredths of a second
        (MadeMachine(boot="next-boot"), False, True),
        (MadeMachine(name="elsewhere"), None, None),
        (MadeMachine(name="elsewhere", now=NOW + 5 * SECOND), True, False),  # it beat just now
        (MadeMachine(boot="another", now=NOW + 5 * SECOND), True, False),  # two machines of one name
    ],
)
def test_a_recording_that_has_not_ended(health, machine, alive, crashed):
    found = health(machine)
    assert (found.state, found.alive, found.crashed) == ("recording", alive, crashed)


def test_a_pid_of_another_namespace_tells_nothing(health):
    meta = {"process": {"pid_namespace": "pid:[7]"}}
    assert health(MadeMachine(began=None), meta=meta).crashed is None
    assert health(MadeMachine(began=None, namespace="pid:[7]"), meta=meta).crashed is True


@pytest.mark.parametrize("state", [state for state in FileState if state is not FileState.RECORDING])
def test_a_recording_that_ended_has_not_crashed(health, state):
    found = health(MadeMachine(began=None), TraceBuilder(state=state))
    assert (found.state, found.crashed, found.alive) == (state.name.lower().replace("_", " "), False, False)


def test_a_state_that_nobody_knows(health):
    builder = TraceBuilder()
    builder.header["state"] = 77
    found = health(MadeMachine(), builder)
    assert (found.state, found.crashed) == ("unknown", None)


def test_counts_and_times(health):
    builder = TraceBuilder()
    builder.scope("a", 0, 5_000)
    builder.recorder_sample(6_000, resolver_cpu=11, process_cpu=22, dropped=2)
    builder.header["error"] = 28
    builder.end(7_000, state="disk_full", dropped=3, unresolved=4, error=28)
    found = health(MadeMachine(), builder)
    assert (found.state, found.error, found.dropped, found.unresolved) == ("disk full", 28, 3, 4)
    assert (found.resolver_cpu, found.process_cpu) == (11, 22)
    assert found.chunks == 2
    assert found.bytes == 3 * 4096
    assert found.last_time - START == found.wall >= 7_000
    assert found.records > 10


def test_without_an_end_unresolved_are_the_intervals_that_are_missing(health):
    builder = TraceBuilder(state=FileState.RECORDING)
    builder.scope("resolved", 0, 10, gpu=(0, 10))
    builder.scope("missing", 20, 30)
    builder.scope("open", 40)
    builder.collective("barrier", 50, flags=16)
    builder.collective("barrier", 60)
    assert health(MadeMachine(), builder).unresolved == 2


def test_the_last_time_is_later_than_the_heartbeat_but_never_absurd(health):
    builder = TraceBuilder(state=FileState.RECORDING)
    builder.mark("last", 5_000_000)
    builder.header["heartbeat"] = START + 1_000_000
    builder.anchor(0)
    builder.record(10, tick=1 << 60)
    assert health(MadeMachine(), builder).last_time >= START + 5_000_000
    assert health(MadeMachine(), builder).last_time < START + SECOND


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_knows_its_processes():
    machine = Machine()
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert machine.process_began(os.getpid()) < now
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert now - SECOND < machine.process_began(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert machine.process_began(child.pid) is None, "a zombie writes nothing any more"
    child.wait()
    child.stdin.close()
    assert machine.process_began(child.pid) is None
    assert machine.host()
    assert len(machine.boot_id()) == 36
    assert machine.pid_namespace().startswith("pid:")
