"""torch's own CUDA caching allocator on a fake device (tests/native_oracle), beside a replay of what it recorded.

Needs a torch with CUDA and a compiler, and no GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from wanhook import _replay
from wanhook.tracefile import tables
from wanhook.tracefile.format import RECORDS, AllocatorFlags, BlockState, Kind, StateReason

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tests" / "native_oracle"
FOLDED = AllocatorFlags.FREE_FOLDED
COUNTED = ("requested", "allocated", "active", "reserved", "inactive_split")
PROBE = np.dtype([("sequence", "u8"), ("peaks_since", "u8"), ("current", "i8", 5), ("peak", "i8", 5)])


def build(directory: Path) -> Path:
    """The program, in `directory`. Skips where torch has no CUDA, where its headers are missing or no compiler is."""
    torch = pytest.importorskip("torch")
    if torch.version.cuda is None:
        pytest.skip("this torch has no CUDA, so there is no caching allocator to compare with")
    from native_build.cuda_toolkit import CudaHeadersNotFound, find_cuda_files

    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler: g++, or the one that CXX names")
    try:
        cuda = find_cuda_files(torch.version.cuda)
    except CudaHeadersNotFound as error:
        pytest.skip(str(error))
    package = Path(torch.__file__).parent
    includes = [package / "include", *cuda.include_dirs, sysconfig.get_paths()["include"]]
    flags = ["-std=c++20" if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15) else "-std=c++17", "-O1"]
    flags += [f"-I{ROOT / 'csrc'}", f"-I{SOURCES}", *(part for path in includes for part in ("-isystem", str(path)))]

    def compiled(source: Path) -> str:
        run_checked([compiler, *flags, "-c", str(source), "-o", str(directory / f"{source.stem}.o")])
        return str(directory / f"{source.stem}.o")

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compiled, sorted(SOURCES.glob("*.cpp"))))
    # The program's own CUDA functions are exported, and so come before libcudart's for torch's libraries too.
    libraries = [f"-L{package / 'lib'}", "-lc10", "-lc10_cuda", f"-Wl,-rpath,{package / 'lib'}"]
    program = directory / "oracle"
    run_checked([compiler, "-rdynamic", *objects, *libraries, "-Wl,--allow-shlib-undefined", "-o", str(program)])
    return program


def run_checked(command: list[str], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command[:2])} ...: {done.stderr[-4000:]}"
    return done.stdout


@dataclass(frozen=True)
class Recorded:
    """One run of the program. `snapshots`: (events before it, reason, SEGMENT rows, BLOCK rows)."""

    events: np.ndarray
    probes: np.ndarray
    snapshots: list[tuple[int, str, np.ndarray, np.ndarray]]
    said: str


def record(program: Path, directory: Path, conf: str, *, seed: int, operations: int, mix: str) -> Recorded:
    """mix: see tests/native_oracle/oracle.cpp."""
    directory.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    said = run_checked(
        [str(program), str(directory), str(seed), str(operations), mix], env={**environment, "PYTORCH_ALLOC_CONF": conf}
    )
    raw = np.fromfile(directory / "events", RECORDS[Kind.ALLOCATOR])
    events = np.zeros(len(raw), tables.ALLOCATOR_EVENT)
    for name in ("device", "action", "flags", "sequence", "address", "size", "stream", "pool", "scope"):
        events[name] = raw[name]
    states = np.fromfile(directory / "states", RECORDS[Kind.STATE_BEGIN])
    parts = {
        kind: np.fromfile(directory / name, RECORDS[kind])
        for kind, name in ((Kind.SEGMENT_STATE, "segments"), (Kind.BLOCK_STATE, "blocks"))
    }
    snapshots = []
    for state in states:
        own = [rows[rows["snapshot"] == state["snapshot"]] for rows in parts.values()]
        position = int(np.searchsorted(events["sequence"], state["sequence"], "right"))
        snapshots.append((position, StateReason(state["reason"]).name.lower(), *own))
    return Recorded(events, np.fromfile(directory / "probes", PROBE), snapshots, said.strip())


def replayed(recorded: Recorded, settings: _replay.Settings, **options) -> _replay.Replay:
    first = recorded.snapshots[0]
    states = [_replay.KnownState(first[0], first[2], first[3])]
    maps = sorted({position for position, *_ in recorded.snapshots})
    return _replay.replay(recorded.events, states, settings, maps_at=maps, **options)


def differences(recorded: Recorded, found: _replay.Replay) -> list[str]:
    """Where torch's own counters, peaks and snapshots are not the replay's: nothing when it is exact."""
    counters = np.column_stack([found.counters[name] for name in COUNTED])
    wrong = []
    for probe in recorded.probes:
        at, now = state_at(recorded.events, counters, probe["sequence"])
        since, first = state_at(recorded.events, counters, probe["peaks_since"])
        peak = np.maximum(first, now)
        if at > since:  # the state at `since` itself may have come only after the peaks were reset
            peak = np.maximum(peak, counters[since:at].max(axis=0))
        for when, ours, torchs in (("now", now, probe["current"]), ("peak", peak, probe["peak"])):
            wrong += [
                f"position {at}: {name} ({when}) is {mine}, torch says {theirs}"
                for name, mine, theirs in zip(COUNTED, ours, torchs, strict=True)
                if mine != theirs
            ]
    for position, _, segments, blocks in recorded.snapshots:
        wrong += map_differences(position, found.address_map(position), segments, blocks)
    return wrong


def state_at(events: np.ndarray, counters: np.ndarray, sequence: int) -> tuple[int, np.ndarray]:
    """The position behind the event of this number, and the counters there."""
    position = int(np.searchsorted(events["sequence"], sequence, "right"))
    state = counters[position].copy()
    # A free that the next event completes is one record, but torch can be asked between the two.
    if position and events["sequence"][position - 1] == sequence and events["flags"][position - 1] & FOLDED:
        state = np.where(np.array(COUNTED) == "allocated", state, counters[position - 1])
    return position, state


def map_differences(position: int, ours, segments: np.ndarray, blocks: np.ndarray) -> list[str]:
    wrong = []
    segments, blocks = np.sort(segments, order="address"), np.sort(blocks, order="address")
    names = ("address", "total", "allocated", "active", "requested", "stream", "pool", "blocks", "flags")
    wrong += table_differences(position, "segment", ours[0], segments, names)
    wrong += table_differences(position, "block", ours[1], blocks, ("address", "size", "segment", "state"))
    if not wrong:  # what an inactive block was asked for last is of no interest
        active = blocks["state"] != BlockState.INACTIVE
        wrong += table_differences(position, "block", ours[1][active], blocks[active], ("requested",))
    return wrong


def table_differences(position: int, what: str, ours: np.ndarray, torchs: np.ndarray, names) -> list[str]:
    if len(ours) != len(torchs):
        return [f"position {position}: {len(ours)} {what}s, torch has {len(torchs)}"]
    return [
        f"position {position}: {what} {row} has {name} {ours[name][row]}, torch's {torchs[name][row]}"
        for name in names
        for row in np.flatnonzero(ours[name] != torchs[name])[:1]
    ]
