import pytest

from made_trace import TraceBuilder
from made_wan import DeadProcesses, save_two_cpus, save_two_gpus
from wanhook.analysis.collective_shares import ALL, OTHER, OWN, collective_shares
from wanhook.analysis.findings import look_at, repeated_stage
from wanhook.analysis.memory import memory_of
from wanhook.analysis.scopes import scope_table
from wanhook.tracefile.format import FileState
from wanhook.tracefile.model import load

STEP = "request/denoise/denoise_step"


def findings(run):
    return {finding.kind: finding for finding in look_at(run.traces, scope_table(run.traces), memory_of(run.traces))}


def test_shares_of_the_step_by_stream(tmp_path):
    traces = load(save_two_gpus(tmp_path)).traces
    shares = {(share.where, share.name): share.share for share in collective_shares(traces, STEP)}
    # The steps last 380 ms and hold 6 blocks: 6 x 12 ms of all_gather, 18 x 2 ms of qkv, 6 x 2 ms of out. Steps and
    # collectives of the slower rank are longer alike, but steps overlap by then: the shares are nearly the same.
    assert shares == pytest.approx(
        {
            (OTHER, ALL): 72 / 380,
            (OTHER, "all_gather fsdp"): 72 / 380,
            (OWN, ALL): 48 / 380,
            (OWN, "all_to_all qkv"): 36 / 380,
            (OWN, "all_to_all out"): 12 / 380,
        },
        abs=0.01,
    )


def test_overlapping_collectives_count_once_together(tmp_path):
    builder = TraceBuilder()
    builder.group("0", (0, 1))
    builder.scope("step", 0, 100, gpu=(0, 100))
    builder.collective("alltoall_", 0, gpu=(10, 30), role="qkv")
    builder.collective("alltoall_", 0, gpu=(20, 50), role="out")
    builder.collective("alltoall_", 0, gpu=(90, 300), role="out")
    traces = load(builder.save(tmp_path / "a.wanhook")).traces
    shares = {share.name: share.share for share in collective_shares(traces, "step")}
    assert shares == pytest.approx({ALL: 0.5, "all_to_all qkv": 0.2, "all_to_all out": 0.4})


def test_recordings_of_a_rank_have_their_shares_together(tmp_path):
    for life, (steps, rank) in enumerate([(1, 0), (9, 0), (1, 1)]):
        builder = TraceBuilder(rank=rank, world_size=2, life=life)
        builder.group("0", (0, 1))
        for begin in range(0, 100 * steps, 100):
            builder.scope("step", begin, begin + 100, gpu=(begin, begin + 100))
        builder.collective("alltoall_", 0, gpu=(0, 80))
        builder.save(tmp_path / f"{life}.wanhook")
    shares = {share.name: share.share for share in collective_shares(load(tmp_path).traces, "step")}
    assert shares[ALL] == pytest.approx((160 / 1000 + 80 / 100) / 2)


def test_devices_of_a_process_have_shares_of_their_own(tmp_path):
    """A thread each for two GPUs: what one of them waits for is no time of the other."""
    builder = TraceBuilder(anchors=False)
    builder.group("0", (0, 1))
    for device in range(2):
        builder.device = device
        for at in (0, 1_000_000):
            builder.anchor(at)
            builder.gpu_anchor(at)
        builder.scope("step", 0, 100, gpu=(0, 100))
        builder.collective("alltoall_", 0, gpu=(50 * device, 50 * device + 50))
    traces = load(builder.save(tmp_path / "a.wanhook")).traces
    assert {share.name: share.share for share in collective_shares(traces, "step")}[ALL] == pytest.approx(0.5)


def test_repeated_stage_is_the_one_with_the_most_time(tmp_path):
    traces = load(save_two_gpus(tmp_path)).traces
    assert repeated_stage(scope_table(traces)).path == STEP


def test_repeated_stage_is_no_part_of_a_load(tmp_path):
    """Two experts that load longer than the few steps of a distilled model take."""
    builder = TraceBuilder()
    loading = builder.scope("load", 0, 1000, gpu=(0, 1000))
    for at in (0, 500):
        builder.scope("load_dit", at, at + 450, gpu=(at, at + 450), parent=loading)
    request = builder.scope("request", 1000, 1100, gpu=(1000, 1100))
    for at in (1000, 1040):
        builder.scope("step", at, at + 40, gpu=(at, at + 40), parent=request)
    run = load(builder.save(tmp_path / "a.wanhook"))
    assert repeated_stage(scope_table(run.traces)).path == "request/step"
    kinds = look_at(run.traces, scope_table(run.traces), memory_of(run.traces))
    told = [finding.figures["path"] for finding in kinds if finding.kind == "stage"]
    assert told == ["load/load_dit", "request/step"]


def test_repeated_stage_is_the_denoising_step_where_there_is_one(tmp_path):
    """Of two requests too, and where the rank died in a step: its forward has ended twice, the step once."""
    builder = TraceBuilder()
    for begin in (0, 1000):
        request = builder.scope("request", begin, begin + 900, gpu=(begin, begin + 900))
        step = builder.scope(
            "denoise_step", begin, None if begin else 400, gpu=None if begin else (0, 400), parent=request
        )
        builder.scope("dit_forward", begin, begin + 390, gpu=(begin, begin + 390), parent=step)
    traces = load(builder.save(tmp_path / "a.wanhook")).traces
    assert repeated_stage(scope_table(traces)).path == "request/denoise_step"


def test_what_occurs_once_in_each_process_does_not_recur(tmp_path):
    for pid in (1, 2):
        builder = TraceBuilder(pid=pid)
        request = builder.scope("request", 0, 100, gpu=(0, 100))
        for begin in (0, 20, 40):
            builder.scope("step", begin, begin + 10, gpu=(begin, begin + 10), parent=request)
        builder.save(tmp_path / f"{pid}.wanhook")
    assert repeated_stage(scope_table(load(tmp_path).traces)).path == "request/step"


def test_findings_carry_their_figures(tmp_path):
    found = findings(load(save_two_gpus(tmp_path)))
    assert list(found) == ["stage", "warm-up", "collectives", "ranks", "some ranks", "slack", "activation"]
    assert found["stage"].figures["total_ns"] == pytest.approx((380 + 399) / 2 * 1e6)
    assert found["warm-up"].figures["first_ns"] == pytest.approx(184.5e6)
    assert (found["ranks"].figures["path"], found["ranks"].figures["rank"]) == (STEP, 1)
    assert found["slack"].figures["slack_bytes"] == 28 << 20
    assert found["activation"].figures["temporary_bytes"] == 40 << 20


def test_stage_of_some_ranks_only(tmp_path):
    found = findings(load(save_two_gpus(tmp_path)))["some ranks"]
    assert found.text == "request/vae_decode runs on rank 0 alone: 60.0 ms, 12.5% of request."
    assert (found.figures["path"], found.figures["ranks"], found.figures["of"]) == ("request/vae_decode", 1, 2)


@pytest.mark.parametrize(("state", "flags"), [(FileState.RECORDING, 0), (FileState.STOPPED, 1)])
def test_what_a_rank_that_ended_early_would_have_had_is_not_known(tmp_path, state, flags):
    for rank in (0, 1):
        builder = TraceBuilder(rank=rank, world_size=2, state=state if rank else FileState.STOPPED)
        request = builder.scope("request", 0, 100, gpu=(0, 100), flags=flags * rank)
        if rank == 0:
            builder.scope("vae_decode", 50, 100, gpu=(50, 100), parent=request)
        builder.save(tmp_path / f"{rank}.wanhook")
    assert "some ranks" not in findings(load(tmp_path, machine=DeadProcesses()))


def test_part_of_a_stage_is_told_on_the_ranks_that_have_it(tmp_path):
    """Rank 0 alone decodes, and nobody waits for it: of its own request that is less than the denoising."""
    for rank in range(4):
        builder = TraceBuilder(rank=rank, world_size=4)
        end = 150 if rank == 0 else 90
        request = builder.scope("request", 0, end, gpu=(0, end))
        builder.scope("denoise", 0, 80, gpu=(0, 80), parent=request)
        if rank == 0:
            builder.scope("decode", 80, 150, gpu=(80, 150), parent=request)
        builder.save(tmp_path / f"{rank}.wanhook")
    found = findings(load(tmp_path))["stage"].figures
    assert (found["path"], found["total_ns"], found["root_total_ns"]) == ("request/denoise", 80, 105)


def test_rank_that_waits_is_not_the_late_one(tmp_path):
    for rank, (work, wait) in enumerate([(300, 10), (200, 110)]):
        builder = TraceBuilder(rank=rank, world_size=2)
        builder.group("0", (0, 1), rank=rank)
        builder.scope("work", 0, work, gpu=(0, work))
        builder.scope("barrier_wait", work, work + wait, gpu=(work, work + wait))
        builder.collective("barrier", work, gpu=(work + 1, work + wait))
        builder.save(tmp_path / f"{rank}.wanhook")
    figures = findings(load(tmp_path))["ranks"].figures
    assert (figures["path"], figures["rank"], figures["share"]) == ("work", 0, pytest.approx(0.2))


def test_on_the_cpu_synchronous_calls_fill_the_step(tmp_path):
    traces = load(save_two_cpus(tmp_path)).traces
    assert {share.where for share in collective_shares(traces, STEP)} == {OWN}


def test_nothing_to_see(tmp_path):
    run = load(TraceBuilder().save(tmp_path / "a.wanhook"))
    assert findings(run) == {}
