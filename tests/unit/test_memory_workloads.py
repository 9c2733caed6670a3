"""Made-up workloads with known answers: what a user would have to find out from the memory report."""

import pytest

from made_allocator import MIB, MadeAllocator
from made_trace import TraceBuilder
from wanhook.analysis.findings import look_at
from wanhook.analysis.memory import memory_of
from wanhook.analysis.memory_owners import Source
from wanhook.analysis.scopes import scope_table
from wanhook.tracefile.model import load


def analysed(builder, tmp_path):
    """(the one device's memory, findings by kind) of what the builder holds."""
    traces = load(builder.save(tmp_path / "a.wanhook")).traces
    memory = memory_of(traces)
    findings = {finding.kind: finding for finding in look_at(traces, scope_table(traces), memory)}
    (state,) = memory
    return state, findings


def by_path(rows):
    return {row.path: row for row in rows}


# Pins ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pinning(tmp_path):
    """Ten segments of 20 MiB full of temporaries, and in eight of them 2 MiB of a cache that stays."""
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    request = builder.scope("request", 10, 900)
    stage = builder.scope("encode", 20, 500, parent=request)
    cache = builder.scope("fill_cache", 30, 400, parent=stage, level="op")
    temporaries = []
    for number in range(10):
        segment = device.segment(20 * MIB, 40, scope=stage)
        if number >= 8:
            temporaries.append(device.alloc(segment, 20 * MIB, 50 + number, scope=stage))
        else:
            temporaries.append(device.alloc(segment, 9 * MIB, 50 + number, scope=stage))
            device.alloc(segment + 9 * MIB, 2 * MIB, 50 + number, scope=cache)
            temporaries.append(device.alloc(segment + 11 * MIB, 9 * MIB, 50 + number, scope=stage))
    for number, block in enumerate(temporaries):
        device.free(block, 200 + number, scope=stage)
    return analysed(builder, tmp_path)


def test_scope_that_pins_is_named_with_its_bytes(pinning):
    memory, findings = pinning
    pins = next(pins for pins in memory.pins if "end" in pins.when)
    assert (pins.segments, pins.segment_bytes, pins.pinned_bytes) == (8, 160 * MIB, 144 * MIB)
    assert (pins.empty_segments, pins.empty_bytes) == (2, 40 * MIB)
    (holder,) = pins.holders
    assert holder.source == Source("scope", "request/encode/fill_cache")
    assert (holder.segments, holder.blocks, holder.live_bytes) == (8, 8, 16 * MIB)
    assert (holder.alone_bytes, holder.shared_bytes) == (144 * MIB, 0)
    assert {(one.bytes, one.active_bytes, one.free_bytes) for one in pins.worst} == {(20 * MIB, 2 * MIB, 18 * MIB)}
    assert all(one.holders == [holder.source] for one in pins.worst)
    figures = findings["pin"].figures
    assert (figures["scope"], figures["pinned_bytes"]) == ("request/encode/fill_cache", 144 * MIB)


def test_what_pins_nothing_before_the_temporaries_go(pinning):
    peak = next(pins for pins in pinning[0].pins if "reserved peak" in pins.when)
    assert [holder.source.path for holder in peak.holders] == []


def test_scattered_free_memory_is_told(pinning):
    memory, findings = pinning
    external = 1 - 20 / 184  # 144 MiB pinned and two empty segments, the largest free block is one of these
    assert memory.fragmentation.external_at_largest_slack == pytest.approx(external)
    assert findings["fragmentation"].figures["external_share"] == pytest.approx(external)
    assert "expandable_segments:True" in findings["fragmentation"].text
    encode = by_path(memory.scopes)["request/encode"]
    assert encode.external_share == pytest.approx(1 - 9 / 144)  # before the last two temporaries went
    assert encode.slack.max_bytes == 184 * MIB
    assert (encode.unused_share, memory.fragmentation.unused_share) == (0, 0)  # all of it was needed at one moment
    assert (encode.left_behind.max_bytes, encode.growth.max_bytes) == (16 * MIB, 16 * MIB)
    assert encode.activation.max_bytes == 200 * MIB


def test_segment_of_two_owners_is_pinned_by_none_alone(tmp_path):
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    scopes = [builder.scope(name, 10 + at, 11 + at) for at, name in enumerate(("one", "two"))]
    segment = device.segment(20 * MIB, 5)
    device.alloc(segment, 2 * MIB, 10, scope=scopes[0])
    device.alloc(segment + 2 * MIB, 4 * MIB, 11, scope=scopes[1])
    memory, _ = analysed(builder, tmp_path)
    pins = memory.pins[-1]
    assert [(one.source.path, one.alone_bytes, one.shared_bytes) for one in pins.holders] == [
        ("one", 0, 14 * MIB),
        ("two", 0, 14 * MIB),
    ]
    assert [source.path for source in pins.worst[0].holders] == ["two", "one"]


# Base and activation -------------------------------------------------------------------------------------------------


@pytest.fixture
def two_components(tmp_path):
    """Two experts of 3 units: the weights load on the CPU, so load_dit itself allocates nothing here; fsdp_wrap brings
    a whole unit of 40 MiB, keeps its half and frees it. A step gathers a unit and computes with 30 MiB beside it."""
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    load_all = builder.scope("load", 10, 1_000)
    text = builder.scope("load_t5", 20, 100, parent=load_all)
    device.alloc(device.segment(12 * MIB, 30, scope=text), 12 * MIB, 31, scope=text)
    whole = device.segment(40 * MIB, 110)
    for number, expert in enumerate(("low_noise", "high_noise")):
        begin = 200 + 400 * number
        component = builder.scope("load_dit", begin, begin + 300, parent=load_all, args={"expert": expert})
        wrap = builder.scope("fsdp_wrap", begin + 200, begin + 290, parent=component)
        for unit in range(3):
            at = begin + 200 + 20 * unit
            device.alloc(whole, 40 * MIB, at, scope=wrap)
            device.alloc(device.segment(20 * MIB, at + 1, scope=wrap), 20 * MIB, at + 2, scope=wrap)
            device.free(whole, at + 3, scope=wrap)
    request = builder.scope("request", 1_100, 2_000)
    denoise = builder.scope("denoise", 1_200, 1_900, parent=request)
    work = device.segment(30 * MIB, 1_210, scope=denoise)
    for number in range(3):
        begin = 1_300 + 100 * number
        step = builder.scope("denoise_step", begin, begin + 90, parent=denoise)
        device.alloc(whole, 40 * MIB, begin + 10, scope=step)
        device.alloc(work, 30 * MIB, begin + 20, scope=step)
        device.free(work, begin + 30, scope=step)
        device.free(whole, begin + 40, scope=step)
    device.snapshot(2_100)
    return analysed(builder, tmp_path)


def test_base_of_a_model_with_two_experts_under_fsdp(two_components):
    base = two_components[0].base
    assert base.begin_of == "request/denoise"
    assert base.moment.allocated_bytes == (12 + 6 * 20) * MIB
    wrap = "load/load_dit/fsdp_wrap"
    assert {(one.source.path, one.source.component, one.allocated_bytes, one.blocks) for one in base.owners} == {
        (wrap, "low_noise", 60 * MIB, 3),
        (wrap, "high_noise", 60 * MIB, 3),
        ("load/load_t5", None, 12 * MIB, 1),
    }


def test_activation_of_a_step_and_of_loading(two_components):
    memory, findings = two_components
    scopes = by_path(memory.scopes)
    step = scopes["request/denoise/denoise_step"]
    assert (step.activation.max_bytes, step.activation.mean_bytes) == (70 * MIB, 70 * MIB)
    assert (step.growth.max_bytes, step.left_behind.max_bytes, step.occurrences) == (0, 0, 3)
    assert step.allocated_peak.max_bytes == (132 + 70) * MIB
    assert scopes["load/load_dit"].activation.max_bytes == (40 + 60) * MIB
    assert (scopes["load/load_dit"].growth.max_bytes, scopes["load/load_dit"].left_behind.max_bytes) == (60 * MIB,) * 2
    assert scopes["load"].left_behind.max_bytes == 132 * MIB
    assert findings["activation"].figures["path"] == "request/denoise/denoise_step"


def test_each_stage_is_listed(two_components):
    steps = by_path(two_components[0].scopes)["request/denoise/denoise_step"].instances
    assert [(one.begin_ns, one.end_ns, one.allocated_peak_bytes) for one in steps] == [
        (begin, begin + 90, 202 * MIB) for begin in (1_300, 1_400, 1_500)
    ]


def test_without_denoise_the_base_is_that_of_the_first_outermost_scope(tmp_path):
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    device.alloc(device.segment(20 * MIB, 5), 4 * MIB, 6)
    builder.scope("request", 10, 100)
    memory, _ = analysed(builder, tmp_path)
    assert (memory.base.begin_of, memory.base.moment.allocated_bytes) == ("request", 4 * MIB)
    assert [one.source.kind for one in memory.base.owners] == ["outside scopes"]


# Leaks ---------------------------------------------------------------------------------------------------------------


def steps_that_keep(tmp_path, kept, *, killed=False):
    """Steps that each use 8 MiB for a while and keep kept[i] MiB. `killed`: the process dies inside another one."""
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    request = builder.scope("request", 10, 10_000)
    work = device.segment(20 * MIB, 11)
    for number, size in enumerate(kept):
        begin = 100 + 100 * number
        step = builder.scope("denoise_step", begin, begin + 90, parent=request)
        inner = builder.scope("scheduler_step", begin + 10, begin + 80, parent=step, level="op")
        device.alloc(work, 8 * MIB, begin + 20, scope=step)
        if size:
            # 1 MiB is the most that torch puts into the small pool, whose segments have 2.
            store = device.segment((2 if size == 1 else 20) * MIB, begin + 25, scope=inner)
            device.alloc(store, size * MIB, begin + 30, scope=inner)
        device.free(work, begin + 40, scope=step)
    if killed:
        step = builder.scope("denoise_step", 5_000, None, parent=request)
        device.alloc(work, 8 * MIB, 5_010, scope=step)
    return analysed(builder, tmp_path)


def test_leak_of_one_mib_a_step_is_found(tmp_path):
    memory, findings = steps_that_keep(tmp_path, [3, 1, 1, 1, 1, 1, 1, 1])
    (leak,) = memory.leaks
    assert (leak.path, leak.occurrences) == ("request/denoise_step", 8)
    assert (leak.growth_bytes, leak.total_bytes) == (MIB, 7 * MIB)
    (owner,) = leak.owners
    assert (owner.source.path, owner.blocks) == ("request/denoise_step/scheduler_step", 7)
    assert owner.allocated_bytes == 7 * MIB
    assert findings["leak"].figures["growth_bytes"] == MIB
    assert findings["leak"].figures["owner"] == "request/denoise_step/scheduler_step"


def test_what_a_step_holds_in_which_the_process_died_is_no_growth(tmp_path):
    memory, _ = steps_that_keep(tmp_path, [1] * 5, killed=True)
    (leak,) = memory.leaks
    assert (leak.occurrences, leak.growth_bytes, leak.total_bytes) == (5, MIB, 4 * MIB)
    assert [owner.source.path for owner in leak.owners] == ["request/denoise_step/scheduler_step"]


@pytest.mark.parametrize("kept", [[3, 0, 0, 0, 0, 0], [0, 0, 20, 0, 0, 0], [1, 1, 1]])
def test_what_is_no_leak(tmp_path, kept):
    memory, findings = steps_that_keep(tmp_path, kept)
    assert memory.leaks == []
    assert "leak" not in findings


# Out of memory -------------------------------------------------------------------------------------------------------


def failed_allocation(tmp_path, asked, device_free, *, pieces, other_stream=0):
    """An OOM while each of 10 segments of 20 MiB has `pieces` MiB free, and another stream's segment `other_stream`."""
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    request = builder.scope("request", 10, 900)
    weights = builder.scope("load", 20, 100, parent=request)
    for _ in range(10):
        device.alloc(device.segment(20 * MIB, 30, scope=weights), (20 - pieces) * MIB, 31, scope=weights)
    if other_stream:
        side = device.segment((other_stream + 10) * MIB, 40, stream=9)
        device.alloc(side, 10 * MIB, 41)
    decode = builder.scope("vae_decode", 200, 300, parent=request)
    device.out_of_memory(asked * MIB, device_free * MIB, 250, scope=decode)
    return analysed(builder, tmp_path)


@pytest.mark.parametrize(
    ("asked", "device_free", "pieces", "other_stream", "verdict"),
    [
        (40, 10, 8, 0, "fragmentation"),  # 80 MiB lie free, in pieces of 8
        (40, 10, 4, 0, "fragmentation"),  # 40 MiB lie free, in pieces of 4: together with the device it is enough
        (40, 10, 2, 0, "size"),  # 20 + 10
        (100, 10, 8, 0, "size"),  # 80 + 10
        (40, 64, 2, 0, "limit"),  # the device had room
        (40, 10, 2, 60, "streams"),  # 60 MiB belong to another stream
    ],
)
def test_cause_of_an_out_of_memory(tmp_path, asked, device_free, pieces, other_stream, verdict):
    memory, findings = failed_allocation(tmp_path, asked, device_free, pieces=pieces, other_stream=other_stream)
    (failed,) = memory.out_of_memory
    dead = failed.post_mortem
    assert (failed.path, failed.requested_bytes, failed.device_free_bytes) == (
        "request/vae_decode",
        asked * MIB,
        device_free * MIB,
    )
    assert dead.verdict == verdict == findings["out of memory"].figures["verdict"]
    assert (dead.usable.pieces, dead.usable.bytes) == (10, 10 * pieces * MIB)
    assert dead.usable.largest_bytes == pieces * MIB
    assert dead.cache.bytes == (10 * pieces + other_stream) * MIB
    assert dead.cache.largest_bytes == max(pieces, other_stream) * MIB
    assert (dead.owners[0].source.path, dead.owners[0].allocated_bytes) == ("request/load", 10 * (20 - pieces) * MIB)


def test_free_pieces_of_small_segments_are_of_no_use_to_a_large_request(tmp_path):
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    for _ in range(30):
        device.alloc(device.segment(2 * MIB, 30), MIB // 2, 31)
    device.out_of_memory(40 * MIB, 10 * MIB, 250)
    device.out_of_memory(MIB, MIB // 2, 260)
    large, small = (failed.post_mortem for failed in analysed(builder, tmp_path)[0].out_of_memory)
    assert (large.cache.bytes, large.usable.bytes, large.verdict) == (45 * MIB, 0, "streams")
    assert (small.cache.bytes, small.usable.bytes) == (45 * MIB, 45 * MIB)


# Deferred frees, churn, retries, the device ---------------------------------------------------------------------------


def test_deferred_frees_wait_and_say_how_long(tmp_path):
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    step = builder.scope("step", 10, 500)
    segment = device.segment(40 * MIB, 20)
    device.alloc(segment, 12 * MIB, 30, scope=step)
    device.alloc(segment + 12 * MIB, 12 * MIB, 31)
    device.alloc(segment + 24 * MIB, 12 * MIB, 32)
    device.request_free(segment, 100)
    device.request_free(segment + 12 * MIB, 200)
    device.complete_free(segment, 300)
    device.complete_free(segment + 12 * MIB, 350)
    device.request_free(segment + 24 * MIB, 400)
    memory, findings = analysed(builder, tmp_path)
    found = memory.deferred
    assert (found.peak_bytes, found.peak.at_ns, found.frees, found.bytes) == (24 * MIB, 200, 2, 24 * MIB)
    assert found.unfinished == 1
    assert (found.wait.count, found.wait.mean_ns, found.wait.max_ns) == (2, 175, 200)
    assert {(one.source.kind, one.frees, one.wait_max_ns) for one in found.sources} == {
        ("scope", 1, 200),
        ("outside scopes", 1, 150),
    }
    assert by_path(memory.scopes)["step"].pending.max_bytes == 24 * MIB
    assert findings["deferred frees"].figures["peak_bytes"] == 24 * MIB
    assert "Most of it" not in findings["deferred frees"].text  # half of it is not most


def test_slack_adds_up_with_what_waits(tmp_path):
    """At the reserved peak 20 of 40 MiB are allocated, 8 wait for another stream, 12 are free."""
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    step = builder.scope("step", 10, 500)
    segment = device.segment(20 * MIB, 20, scope=step)
    device.alloc(segment, 8 * MIB, 30, scope=step)
    device.request_free(segment, 100, scope=step)
    device.alloc(device.segment(20 * MIB, 110, scope=step), 20 * MIB, 120, scope=step)
    text = analysed(builder, tmp_path)[1]["slack"].text
    assert text.startswith(
        "At the reserved peak of rank 0, in step, 20.0 of 40.0 MiB (50.0%) were reserved but not allocated: 12.0 MiB "
        "free in the cache, the largest piece 12.0 MiB, and 8.0 MiB freed but waiting for another stream."
    )
    # torch collects nothing as long as nobody has called that.
    assert "garbage_collection_threshold" in text
    assert "set_per_process_memory_fraction()" in text


def test_nothing_deferred_nothing_said(two_components):
    assert two_components[0].deferred is None


def test_churn_by_stage(tmp_path):
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    stage = builder.scope("decode", 10, 500)
    tile = builder.scope("tile", 20, 400, parent=stage, level="op")
    for number in range(3):
        segment = device.segment(20 * MIB, 30 + 10 * number, scope=tile)
        device.drop_segment(segment, 35 + 10 * number, scope=tile)
    device.segment(2 * MIB, 100)
    memory, _ = analysed(builder, tmp_path)
    decode, outside = memory.churn
    assert (decode.path, decode.mallocs, decode.malloc_bytes) == ("decode", 3, 60 * MIB)
    assert (decode.frees, decode.free_bytes, decode.maps, decode.unmaps) == (3, 60 * MIB, 0, 0)
    assert (outside.path, outside.mallocs, outside.malloc_bytes, outside.frees) == (None, 1, 2 * MIB, 0)


def test_memory_outside_of_torch_at_stage_edges(tmp_path):
    builder = TraceBuilder()
    device = MadeAllocator(builder)
    stage = builder.scope("encode", 100, 200)
    device.segment(20 * MIB, 50)
    total = {"device_total": 1000 * MIB, "scope": stage}
    builder.sample(100, edge="scope_begin", device_free=900 * MIB, reserved_bytes=20 * MIB, **total)
    builder.sample(200, edge="scope_end", device_free=700 * MIB, reserved_bytes=20 * MIB, **total)
    use = analysed(builder, tmp_path)[0].device_use
    assert (use.samples, use.total_bytes, use.used.bytes) == (2, 1000 * MIB, 300 * MIB)
    most, least = use.outside_most, use.outside_least
    assert (most.bytes, most.edge, most.path, most.at_ns) == (280 * MIB, "end", "encode", 200)
    assert (least.bytes, least.edge, least.at_ns) == (80 * MIB, "begin", 100)


def test_retries_belong_to_the_stage_in_which_they_happened(tmp_path):
    builder = TraceBuilder()
    MadeAllocator(builder)
    outer = builder.scope("request", 50, 500)
    inner = builder.scope("decode", 100, 200, parent=outer)
    edges = [(50, "scope_begin", outer, 3), (100, "scope_begin", inner, 3), (200, "scope_end", inner, 5)]
    for at, edge, scope, retries in [*edges, (500, "scope_end", outer, 6)]:
        builder.sample(at, edge=edge, scope=scope, retries=retries, ooms=0)
    memory, findings = analysed(builder, tmp_path)
    assert (memory.retries.retries, memory.retries.ooms) == (3, 0)
    assert memory.retries.by_path == {"request/decode": 2, "request": 1}
    assert findings["retries"].figures["retries"] == 3
