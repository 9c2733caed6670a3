"""A memory sample knows the allocator event behind which torch's counters were read."""

import threading
import time

import numpy as np
import pytest
import torch

from gpu.allocating import counters, random_operations
from gpu.recorded import assert_no_gap, folded, of_action, own_events, own_snapshots, recorded, scopes_named
from gpu.spinning import calibrate, spin

pytestmark = pytest.mark.gpu

MIB = 1 << 20


def sampled_at(trace, scope: str) -> list:
    """(memory sample, number of the event it was read after) at the begin of each scope of that name."""
    from wanhook.tracefile.format import SampleEdge

    begins = trace.memory_samples["edge"] == SampleEdge.SCOPE_BEGIN
    own = begins & np.isin(trace.memory_samples["scope"], scopes_named(trace, scope)["id"])
    return list(zip(trace.memory_samples[own], trace.allocator_samples["sequence"][own].tolist(), strict=True))


def test_a_sample_never_lies_inside_a_folded_free(tmp_path, quiet_allocator):
    import wanhook

    calibrate()
    side = torch.cuda.Stream()
    sizes = {"unseen": 3 * MIB, "seen": 5 * MIB}
    tensors = {name: torch.empty(size, dtype=torch.uint8, device="cuda") for name, size in sizes.items()}
    with recorded(tmp_path) as recording:
        for name in sizes:
            with torch.cuda.stream(side):
                spin(20_000)
            tensors[name].record_stream(side)
            del tensors[name]
            if name == "seen":
                with wanhook.trace("between"):
                    pass
            torch.cuda.synchronize()
            torch.empty(512, dtype=torch.uint8, device="cuda")  # completes what is pending, before anything else
    trace = recording.trace
    requests = {int(event["size"]): event for event in of_action(trace, "FREE_REQUESTED")}
    assert folded(requests[sizes["unseen"]])
    assert not folded(requests[sizes["seen"]])
    assert sizes["seen"] in of_action(trace, "FREE_COMPLETED")["size"].tolist()
    ((sample, sequence),) = sampled_at(trace, "between")
    assert sequence == requests[sizes["seen"]]["sequence"]
    assert sample["active"] - sample["allocated"] >= sizes["seen"]
    assert_no_gap(trace)


def test_samples_know_their_place_while_threads_allocate(tmp_path, quiet_allocator):
    """The events up to a sample's place give its requested and reserved bytes, whatever other threads do meanwhile."""
    import wanhook

    with recorded(tmp_path) as recording:
        enough = threading.Event()
        threads = [threading.Thread(target=allocate_until, args=(enough, seed)) for seed in range(3)]
        goal = counters()["ALLOC"] + 5000
        for thread in threads:
            thread.start()
        while counters()["ALLOC"] < goal:
            with wanhook.trace("look"):
                pass
            time.sleep(0)
        enough.set()
        for thread in threads:
            thread.join()
    trace = recording.trace
    looked = [(sample, place) for sample, place in sampled_at(trace, "look") if place > 0]
    assert len({place for _, place in looked}) > 10
    for sample, place in looked:
        assert state_behind(trace, place) == (sample["requested"], sample["reserved"])


def allocate_until(enough: threading.Event, seed: int) -> None:
    while not enough.is_set():
        random_operations(seed, 50)


def state_behind(trace, place: int) -> tuple[int, int]:
    """Requested and reserved bytes after the event with that number, from the first state on."""
    from wanhook.tracefile.format import AllocatorAction

    first, events = own_snapshots(trace)[0], own_events(trace)
    events = events[(events["sequence"] > first.sequence) & (events["sequence"] <= place)]

    def total(action: str) -> int:
        return int(events["size"][events["action"] == AllocatorAction[action]].astype("i8").sum())

    completed = total("FREE_COMPLETED") + int(events["size"][folded(events)].astype("i8").sum())
    requested = first.requested + total("ALLOC") - completed
    return requested, first.reserved + total("SEGMENT_ALLOC") - total("SEGMENT_FREE")
