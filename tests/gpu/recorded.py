"""Records a block of a test and reads the file back."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from gpu.allocating import COUNTERS

STOP_SECONDS = 10.0  # for the last GPU spans; far more than they need


@contextmanager
def recorded(out: Path, **options) -> Iterator[SimpleNamespace]:
    """Records the block into ``out``; afterwards the yielded object's ``trace`` is what a reader sees.

    ``options`` go to ``wanhook.start``. The GPU is waited for, so every span is in the file. A block that raises is
    not read.
    """
    import wanhook

    result = SimpleNamespace(trace=None)
    wanhook.start(out, **options)
    try:
        yield result
        torch.cuda.synchronize()
    finally:
        wanhook.stop(wait=STOP_SECONDS)
    result.trace = only_trace(out)


def only_trace(out: Path):
    """The one trace in a run directory, or of one file."""
    import wanhook

    run = wanhook.load(out)
    assert len(run.traces) == 1, f"{len(run.traces)} traces in {out}: {run.problems}"
    return run.traces[0]


def scopes_named(trace, name: str) -> np.ndarray:
    """Scopes of that name, by begin time."""
    return trace.scopes[trace.scopes["name"] == trace.strings.index(name)]


def collectives_with_role(trace, role: str) -> np.ndarray:
    """Collectives that were tagged with that role, by begin time."""
    return trace.collectives[trace.collectives["role"] == trace.strings.index(role)]


def gpu_nanoseconds(rows: np.ndarray) -> np.ndarray:
    """Stream intervals of scopes or collectives (int64[n], ns). Fails when one has none."""
    untimed = rows[rows["gpu_begin"] < 0]
    assert not len(untimed), f"{len(untimed)} of {len(rows)} have no GPU span"
    return rows["gpu_end"] - rows["gpu_begin"]


def assert_healthy(trace, state: str = "stopped") -> None:
    """Nothing was lost, nothing is damaged, and the recording ended as it should."""
    health = trace.health
    assert (health.state, health.dropped, health.unresolved, health.damage) == (state, 0, 0, [])


def own_events(trace):
    """Events of the current device."""
    return trace.allocator_events[trace.allocator_events["device"] == torch.cuda.current_device()]


def own_snapshots(trace) -> list:
    """Snapshots of the current device, by time."""
    return [snapshot for snapshot in trace.snapshots if snapshot.device == torch.cuda.current_device()]


def of_action(trace, action: str):
    from wanhook.tracefile.format import AllocatorAction

    events = own_events(trace)
    return events[events["action"] == AllocatorAction[action]]


def folded(events):
    from wanhook.tracefile.format import AllocatorFlags

    return (events["flags"] & AllocatorFlags.FREE_FOLDED) != 0


def recorded_counts(trace) -> dict[str, int]:
    """Events of the current device by action, under the names of gpu.allocating.counters."""
    from wanhook.tracefile.format import AllocatorAction

    counts = Counter(AllocatorAction(action).name for action in own_events(trace)["action"].tolist())
    counts["FREE_COMPLETED"] += int(folded(own_events(trace)).sum())
    return {action: counts[action] for action in COUNTERS}


def assert_no_gap(trace) -> None:
    """Every number of the allocator's order is there once; a folded completion has the one behind its request."""
    events = own_events(trace)
    numbers = [*events["sequence"].tolist(), *(events["sequence"][folded(events)] + 1).tolist()]
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers)))
    assert (events["time"][1:] >= events["time"][:-1] - 1000).all()
