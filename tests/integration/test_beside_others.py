"""wanhook beside the rest of the process: what it imports, other observers, and the memory it watches."""

import gc

import numpy as np
import torch

import wanhook
from programs import run_program
from recorded import paths, recorded
from wanhook._native import load as load_native
from wanhook.analysis.memory import memory_of
from wanhook.tracefile.format import AllocatorAction


def test_imports(tmp_path):
    ended = run_program("imports", tmp_path, WANHOOK_OUT="run")
    assert (ended.returncode, ended.output, ended.errors) == (0, "", "")


def work():
    with wanhook.trace("work"):
        x = torch.arange(10_000.0)
        return (x.sin() @ x).item()


def profiled(**options):
    """The result of work(), and how often the profiler saw each operator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **options) as profiler:
        result = work()
    return result, {event.key: event.count for event in profiler.key_averages() if event.key.startswith("aten::")}


def test_torch_profiler_sees_the_same_with_and_without_us(tmp_path):
    options = {"record_shapes": True, "profile_memory": True, "with_stack": True}
    work()
    alone = profiled(**options)
    with recorded(tmp_path) as result:
        beside = profiled(**options)
    assert beside == alone
    assert paths(result.trace) == ["work"]


def test_profiler_sees_the_memory_of_tensors(tmp_path):
    with recorded(tmp_path):
        with torch.profiler.profile(profile_memory=True) as profiler:
            kept = torch.empty(1 << 20)
        del kept
    allocated = sum(event.self_cpu_memory_usage for event in profiler.key_averages() if event.key == "aten::empty")
    assert allocated == 4 << 20


def test_every_tensor_of_a_recording_is_in_it(tmp_path):
    before = torch.empty(3 << 20, dtype=torch.uint8)
    native = load_native()
    gc.collect()
    with recorded(tmp_path) as result:
        totals = native.cpu_memory_totals()
        with wanhook.trace("allocates"):
            kept = torch.empty(1 << 20, dtype=torch.uint8)
            address = kept.data_ptr()
            with wanhook.trace("inner"):
                torch.empty(5 << 20, dtype=torch.uint8)
        del before, kept
        totals = np.subtract(native.cpu_memory_totals(), totals)
    events = result.trace.allocator_events
    assert (np.diff(events["sequence"]) == 1).all()
    allocations = events[events["action"] == AllocatorAction.ALLOC]
    frees = events[events["action"] == AllocatorAction.FREE_REQUESTED]
    assert (len(allocations), len(frees)) == tuple(totals)
    assert allocations["size"].tolist() == [1 << 20, 5 << 20]
    assert allocations["address"][0] == address
    assert len(frees) == 3
    assert (frees["completed"] >= frees["time"]).all()
    around = result.trace.path_of(allocations["scope"])
    assert [result.trace.paths[path] for path in around] == ["allocates", "allocates/inner"]


def test_memory_of_a_stage_is_what_torch_was_asked_for(tmp_path):
    with recorded(tmp_path) as result:
        with wanhook.trace("stage"):
            kept = torch.empty(3 << 20, dtype=torch.uint8)
            torch.empty(5 << 20, dtype=torch.uint8)
        with wanhook.trace("after"):
            del kept
    (memory,) = memory_of([result.trace])
    stages = {row.path: row for row in memory.scopes}
    stage, after = stages["stage"], stages["after"]
    assert (stage.activation.max_bytes, stage.growth.max_bytes) == (8 << 20, 3 << 20)
    assert stage.left_behind.max_bytes == 3 << 20
    assert (after.growth.max_bytes, after.activation.max_bytes) == (-3 << 20, 0)
    assert memory.check.equal == memory.check.places > 0


def test_memory_of_other_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def allocate(number):
        with wanhook.trace("thread", number=number):
            return [torch.empty(1000 + number, dtype=torch.uint8) for _ in range(200)]

    with recorded(tmp_path) as result:
        with ThreadPoolExecutor(4) as pool:
            kept = list(pool.map(allocate, range(8)))
        del kept
    events = result.trace.allocator_events
    allocations = events[events["action"] == AllocatorAction.ALLOC]
    ours = allocations[(allocations["size"] >= 1000) & (allocations["size"] < 1008)]
    assert len(ours) == 8 * 200
    numbers = np.array([result.trace.scope_args[scope]["number"] for scope in ours["scope"].tolist()])
    assert (ours["size"] == 1000 + numbers).all()
    events = events[events["action"] != AllocatorAction.SNAPSHOT]
    signs = np.where(events["action"] == AllocatorAction.ALLOC, 1, -1)
    # In the order of their numbers, no address is handed out twice without having been freed.
    order = np.lexsort((events["sequence"], events["address"]))
    same = events["address"][order][1:] == events["address"][order][:-1]
    live = signs[order]
    assert not ((live[1:] == live[:-1]) & same).any()
