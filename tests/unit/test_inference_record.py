"""The record of a request: its figures against sums made by hand, its whitelists, and where it is written."""

import itertools

import orjson
import pytest

import made_load
import made_wan
from made_allocator import MadeAllocator
from made_load import SECOND
from made_trace import TraceBuilder
from wanhook.analysis.inference import PARALLEL, SETTINGS, inference_records
from wanhook.report.__main__ import main
from wanhook.report.inference_record import NAME, leave_records
from wanhook.tracefile.model import load

ASKED = {"pipeline": "WanT2V", "width": 1280, "height": 720, "frame_num": 81, "sampling_steps": 40, "shift": 5.0}
ASKED |= {"sample_solver": "unipc", "seed": 42, "guide_scale": 3.0, "guide_scale_2": 4.0, "offload_model": False}
PROMPT = "a cat that boxes on a stage"
PATH = "home-of-somebody/low_noise_model"


def wan_rank(rank=0, world=1, *, asked=ASKED, device="cuda", requests=1, **fields):
    """A load of 30 s, then requests of 100 s each: 3 steps of 20 s, the last with an expert switch of 5 s."""
    builder = TraceBuilder(rank=rank, world_size=world, device=device, device_index=rank, **fields)
    builder.group("0", tuple(range(world)), rank=rank)
    made_load.LoadingRank(builder).load(9, from_disk=True)
    for number in range(requests):
        write_request(builder, (40 + 110 * number) * SECOND, asked, rank)
    builder.end((40 + 110 * requests) * SECOND)
    return builder


def write_request(builder, begin, asked, rank=0, ended=True):
    on_gpu = builder.device >= 0

    def scope(name, start, end, parent, level="stage", **args):
        times = begin + start * SECOND, begin + end * SECOND
        gpu = (times[0] + SECOND, times[1] + SECOND) if on_gpu else None
        return builder.scope(name, *times, gpu=gpu, parent=parent, level=level, args=args or None)

    # The GPU ends 1 s behind the host: later ranks take as much longer as their number says.
    end = begin + (100 + rank) * SECOND if ended else None
    request = builder.scope("request", begin, end, args=asked)
    denoise = scope("denoise", 10, 70, request)
    for step in range(3):
        inside = scope("denoise_step", 10 + 20 * step, 30 + 20 * step, denoise, step=step)
        if step == 2:
            switch = scope("expert_switch", 50, 55, inside, expert="low_noise")
            scope("offload", 50, 53, switch)
        forward = scope("dit_forward", 15 + 20 * step, 20 + 20 * step, inside)
        attention = scope("self_attn", 15 + 20 * step, 20 + 20 * step, forward, "op")
        scope("attn_kernel", 16 + 20 * step, 18 + 20 * step, attention, "op")
        for call, role in enumerate(("qkv", "qkv", "qkv", "out")):
            at = begin + (15 + 20 * step) * SECOND + call
            done = {"gpu": (at + SECOND, at + 2 * SECOND)} if on_gpu else {"completed": at + SECOND}
            builder.collective("alltoall_", at, returned=at + 9, role=role, scope=attention, **done)
    scope("vae_decode", 70, 90, request)
    builder.scope("save", begin + 101 * SECOND, begin + 104 * SECOND)
    return request


def records(tmp_path, *builders):
    for number, builder in enumerate(builders):
        builder.save(tmp_path / f"rank{number:05d}-1-0.wanhook")
    return inference_records(load(tmp_path))


def test_what_was_asked_for(tmp_path):
    record = records(tmp_path, wan_rank())[0]
    assert (record.task, record.pipeline) == ("t2v", "WanT2V")
    expected = {"width": 1280, "height": 720, "frames": 81, "steps": 40, "shift": 5.0, "solver": "unipc", "seed": 42}
    expected |= {"guide_scale": 3.0, "guide_scale_2": 4.0, "offload_model": False}
    assert record.settings == expected
    assert record.parallel == {
        "world_size": 1, "ulysses_size": 1, "use_sp": True, "dit_fsdp": True, "t5_fsdp": False
    }  # fmt: skip


def test_times_at_the_top_add_up(tmp_path):
    record = records(tmp_path, wan_rank())[0]
    assert (record.model_load_s, record.request_s, record.total_s) == (30.0, 100.0, 130.0)
    assert (record.expert_switch_total_s, record.inference_s) == (5.0, 95.0)
    assert (record.steps, record.step_clock) == (3, "gpu")
    assert record.s_per_step == pytest.approx(55 / 3)
    assert record.steps_per_s == pytest.approx(3 / 55)
    rank = record.ranks[0]
    assert (rank.first_step_s, rank.s_per_later_step) == (20.0, 17.5)
    assert (record.complete, record.incomplete) == (True, [])
    assert record.started_unix_ns == 1_700_000_000_000_000_000 + 40 * SECOND


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_stages_by_wan_s_names(tmp_path, device):
    stages = records(tmp_path, wan_rank(device=device))[0].stages
    side = "gpu_s" if device == "cuda" else "host_s"
    seconds = {name: (total.count, getattr(total, side), total.untimed) for name, total in stages.items()}
    assert seconds.pop("save") == ((1, None, 1) if device == "cuda" else (1, 3.0, 0))
    assert seconds.pop("request_total") == ((1, None, 1) if device == "cuda" else (1, 100.0, 0))
    loading = {name: seconds.pop(name) for name in ("load_t5", "load_dit", "configure")}
    assert loading["load_t5"] == ((1, None, 1) if device == "cuda" else (1, 9.0, 0))
    assert seconds == {
        "denoise_step_total": (3, 60.0, 0),
        "expert_switch_total": (1, 5.0, 0),
        "denoise": (1, 60.0, 0),
        "dit_forward": (3, 15.0, 0),
        "self_attn": (3, 15.0, 0),
        "attn_kernel": (3, 6.0, 0),
        "offload": (1, 3.0, 0),
        "vae_decode": (1, 20.0, 0),
        "comm_total": (12, 12.0, 0),
        "qkv_all_to_all": (9, 9.0, 0),
        "out_all_to_all": (3, 3.0, 0),
    }


def test_attention_of_others_than_the_dit_is_not_its_attn_kernel(tmp_path):
    """CLIP's own, and in S2V the motioner's, which the DiT's forward calls."""
    builder = TraceBuilder(device="cpu")

    def scope(name, begin, end, parent):
        return builder.scope(name, begin * SECOND, end * SECOND, parent=parent, level="op")

    request = builder.scope("request", 0, 99 * SECOND)
    scope("attn_kernel", 1, 5, scope("clip_encode", 1, 6, request))
    forward = scope("dit_forward", 10, 50, request)
    scope("attn_kernel", 10, 13, forward)
    for number, name in enumerate(("self_attn", "cross_attn")):
        at = 20 + 10 * number
        scope("attn_kernel", at, at + 1, scope(name, at, at + 2, scope("block", at, at + 3, forward)))
    scope("attn_kernel", 40, 41, scope("cross_attn", 40, 42, forward))  # S2V's audio: outside of the blocks
    total = records(tmp_path, builder)[0].stages["attn_kernel"]
    assert (total.count, total.host_s) == (3, 3.0)


def test_names_of_wan_s_are_there_without_their_calls(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.scope("request", 0, SECOND)
    stages = records(tmp_path, builder)[0].stages
    counts = {name: total.count for name, total in stages.items()}
    names = ("denoise_step_total", "attn_kernel", "comm_total", "qkv_all_to_all", "out_all_to_all")
    assert counts == {"request_total": 1, "expert_switch_total": 0, **dict.fromkeys(names, 0)}
    assert stages["comm_total"].gpu_s is stages["comm_total"].host_s is None


def test_what_the_level_leaves_out_is_not_zero(tmp_path):
    builder = TraceBuilder(device="cpu", meta={"wanhook": {"level": "stage"}})
    builder.scope("request", 0, SECOND)
    stages = records(tmp_path, builder)[0].stages
    assert stages["attn_kernel"] is None
    assert stages["comm_total"].count == 0


def test_a_step_without_its_stream_interval_puts_all_steps_on_the_host_clock(tmp_path):
    builder = TraceBuilder()
    request = builder.scope("request", 0, 9 * SECOND)
    builder.scope("denoise_step", 0, 2 * SECOND, parent=request, gpu=(SECOND, 5 * SECOND))
    builder.scope("denoise_step", 3 * SECOND, 4 * SECOND, parent=request)
    record = records(tmp_path, builder)[0]
    assert (record.step_clock, record.s_per_step) == ("host", 1.5)


def test_a_step_that_never_ended_is_no_step(tmp_path):
    builder = TraceBuilder()
    request = builder.scope("request", 0, None)
    for begin, end in ((0, 2 * SECOND), (2 * SECOND, 4 * SECOND), (4 * SECOND, None)):
        builder.scope("denoise_step", begin, end, parent=request)
    record = records(tmp_path, builder)[0]
    assert (record.steps, record.s_per_step, record.stages["denoise_step_total"].count) == (2, 2.0, 3)


def test_begin_by_the_clock_as_it_was_set_then(tmp_path):
    builder = TraceBuilder(anchors=False)
    for at, shift in ((0, 0), (50 * SECOND, 0), (51 * SECOND, 3 * SECOND), (120 * SECOND, 3 * SECOND)):
        builder.anchor(at, realtime_shift=shift)
    builder.scope("request", 60 * SECOND, 70 * SECOND)
    assert records(tmp_path, builder)[0].started_unix_ns == builder.start_realtime + 63 * SECOND


def test_the_slowest_rank_gives_the_times_and_all_are_listed(tmp_path):
    record = records(tmp_path, wan_rank(0, 2), wan_rank(1, 2))[0]
    assert (record.slowest_rank, record.request_s) == (1, 101.0)
    assert [(one.rank, one.request_s) for one in record.ranks] == [(0, 100.0), (1, 101.0)]
    assert record.parallel["ulysses_size"] == 2


def test_several_requests_of_one_load(tmp_path):
    found = records(tmp_path, wan_rank(0, 2, requests=3), wan_rank(1, 2, requests=3))
    assert [(one.request, one.requests, one.model_load_s, len(one.ranks)) for one in found] == [
        (1, 3, 30.0, 2), (2, 3, 0.0, 2), (3, 3, 0.0, 2)
    ]  # fmt: skip
    assert [one.steps for one in found] == [3, 3, 3]
    assert all(one.parallel["dit_fsdp"] is True for one in found)
    assert found[1].stages["save"].count == 1
    assert "load_t5" not in found[1].stages


def test_what_is_missing_is_said(tmp_path):
    late = TraceBuilder(rank=1, world_size=3)
    write_request(late, SECOND, ASKED, ended=False)
    failed = wan_rank(0, 3)
    failed.drop(50 * SECOND, 12)
    record = records(tmp_path, failed, late)[0]
    assert not record.complete
    assert record.incomplete == [
        "rank 2 has no record of this request",
        "rank 0 dropped 12 records",
        "rank 1 never ended it",
    ]


def test_an_exception_is_said(tmp_path):
    builder = TraceBuilder()
    builder.scope("request", 0, SECOND, flags=1)
    assert records(tmp_path, builder)[0].incomplete == ["rank 0 left it by an exception"]


def test_a_damaged_file_makes_no_complete_record(tmp_path):
    builder = wan_rank()
    builder.record(3, b"no json", tick=0)
    assert records(tmp_path, builder)[0].incomplete == ["the file of rank 0 is damaged"]


def test_a_request_in_a_request_is_none_of_its_own(tmp_path):
    builder = TraceBuilder()
    outer = builder.scope("job", 0, 9 * SECOND)
    request = builder.scope("request", 0, 8 * SECOND, parent=outer)
    inner = builder.scope("request", SECOND, 7 * SECOND, parent=request)
    builder.scope("denoise_step", SECOND, 2 * SECOND, parent=inner)
    builder.scope("denoise_step", SECOND, 2 * SECOND)
    found = records(tmp_path, builder)
    assert [(one.request_s, one.steps) for one in found] == [(8.0, 1)]


def test_peaks_are_those_inside_the_request(tmp_path):
    """128 MiB of segments from before, 40 MiB more in the request; 100 MiB of weights, 40 MiB of activation."""
    found = inference_records(load(made_wan.save_two_gpus(tmp_path)))[0]
    mib = 1 << 20
    assert [(one.reserved_peak, one.allocated_peak) for one in found.ranks] == [(168 * mib, 140 * mib)] * 2
    assert (found.reserved_peak, found.allocated_peak) == (168 * mib, 140 * mib)


def test_peaks_of_other_times_do_not_count(tmp_path):
    builder = TraceBuilder(device="cpu")
    mib = 1 << 20
    builder.alloc(0x1000, 50 * mib, SECOND)
    builder.free(0x1000, 0, 2 * SECOND, completed=2 * SECOND)
    builder.alloc(0x2000, 3 * mib, 3 * SECOND)
    request = builder.scope("request", 4 * SECOND, 6 * SECOND)
    builder.alloc(0x3000, 4 * mib, 5 * SECOND, scope=request)
    builder.alloc(0x4000, 90 * mib, 7 * SECOND)
    rank = records(tmp_path, builder)[0].ranks[0]
    assert (rank.allocated_peak, rank.reserved_peak) == (7 * mib, None)


def test_allocated_peak_is_not_claimed_under_settings_that_changed(tmp_path):
    """How much a block takes follows from them; what is reserved, from the events alone."""
    made_wan.save_two_gpus(tmp_path)
    settings = {"settings_at_start": "", "settings_in_use": "roundup_power2_divisions:4"}
    made_wan.gpu_rank(0, meta={"allocator": settings}).save(tmp_path / "rank00000-0-0.wanhook")
    ranks = inference_records(load(tmp_path))[0].ranks
    assert ranks[0].allocated_peak is None
    assert ranks[0].reserved_peak == 168 << 20
    assert ranks[1].allocated_peak == 140 << 20


def test_peaks_are_not_known_without_a_state_to_count_from(tmp_path):
    builder = TraceBuilder()
    request = builder.scope("request", 0, 9 * SECOND)
    device = MadeAllocator(builder, begin=False)
    segment = device.segment(20 << 20, SECOND, scope=request, sequence=7)
    device.alloc(segment, 4 << 20, SECOND, scope=request, sequence=8)
    rank = records(tmp_path, builder)[0].ranks[0]
    assert (rank.reserved_peak, rank.allocated_peak) == (None, None)


def test_a_group_that_no_record_describes_gives_no_size(tmp_path):
    builder = TraceBuilder()
    builder.scope("request", 0, 9 * SECOND)
    builder.collective("alltoall_", SECOND, role="qkv", group=9)
    assert "ulysses_size" not in records(tmp_path, builder)[0].parallel


def planted(value):
    names = [*SETTINGS, *PARALLEL, "pipeline", "sample_solver", "prompt", "input_prompt", "n_prompt", "save_file"]
    return dict.fromkeys(names, value)


@pytest.mark.parametrize("text", [PROMPT, PATH, "cat", "/", [PROMPT], {"text": PROMPT}])
def test_a_planted_prompt_or_path_is_in_no_record(tmp_path, text, capsys):
    builder = TraceBuilder(meta={"allocator": {"settings": PATH}, "versions": {"torch": PATH}})
    builder.scope("load", 0, SECOND, args=planted(text))
    builder.scope("request", 2 * SECOND, 5 * SECOND, args=planted(text))
    builder.scope(PROMPT, 3 * SECOND, 4 * SECOND, parent=2)
    builder.scope(PROMPT, 6 * SECOND, 7 * SECOND)
    directory = tmp_path / PROMPT
    directory.mkdir()
    builder.save(directory / "a.wanhook")
    assert main([str(directory)]) == 0
    capsys.readouterr()
    written = (directory / NAME).read_text()
    record = orjson.loads(written)
    assert (record["task"], record["pipeline"], record["settings"]) == ("other", "other", {"solver": "other"})
    assert record["parallel"] == {"world_size": 1}
    for word in ("boxes", "cat that", "somebody", "low_noise", '"cat"', str(tmp_path)):
        assert word not in written


@pytest.mark.parametrize("value", ["1280", None, [1], {}, "", "1e3"])
def test_numbers_are_numbers(tmp_path, value):
    builder = TraceBuilder()
    builder.scope("request", 0, SECOND, args={"width": value, "seed": 7})
    assert records(tmp_path, builder)[0].settings == {"seed": 7}


# Where it is written --------------------------------------------------------------------------------------------------


@pytest.fixture
def run_of_two(tmp_path):
    wan_rank(requests=2).save(tmp_path / "a.wanhook")
    return tmp_path


def names(directory):
    return sorted(file.name for file in directory.iterdir() if file.suffix != ".wanhook")


def test_a_report_leaves_a_record_of_each_request(run_of_two, capsys):
    assert main([str(run_of_two)]) == 0
    assert names(run_of_two) == ["inference_record-2.json", "inference_record.json"]
    assert [orjson.loads((run_of_two / name).read_bytes())["request"] for name in names(run_of_two)] == [2, 1]
    assert capsys.readouterr().err == ""
    assert main([str(run_of_two)]) == 0
    assert names(run_of_two) == ["inference_record-2.json", "inference_record.json"]


def test_options_about_the_record(run_of_two, tmp_path_factory, capsys):
    assert main([str(run_of_two), "--no-record"]) == 0
    assert names(run_of_two) == []
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "r.json"
    assert main([str(run_of_two), "--record", str(elsewhere)]) == 0
    assert names(elsewhere.parent) == ["r-2.json", "r.json"]
    assert names(run_of_two) == []
    with pytest.raises(SystemExit):
        main([str(run_of_two), "--record", "a", "--no-record"])
    capsys.readouterr()


def test_json_on_stdout_stays_json(run_of_two, capsysbinary):
    assert main([str(run_of_two), "--json", "-"]) == 0
    assert orjson.loads(capsysbinary.readouterr().out)["schema"]
    assert len(names(run_of_two)) == 2


def test_one_rank_or_one_file_does_not_take_the_record_s_place(run_of_two, capsys):
    assert main([str(run_of_two), "--rank", "0"]) == 0
    assert main([str(run_of_two / "a.wanhook")]) == 0
    assert names(run_of_two) == []
    assert main([str(run_of_two / "a.wanhook"), "--record", str(run_of_two / "r.json")]) == 0
    assert names(run_of_two) == ["r-2.json", "r.json"]
    capsys.readouterr()


@pytest.mark.parametrize("name", ["missing/r.json", "a.wanhook/r.json", "folder"])
def test_a_place_that_cannot_be_written_costs_one_line(run_of_two, capsys, name):
    (run_of_two / "folder").mkdir()
    assert main([str(run_of_two), "--record", str(run_of_two / name)]) == 0
    told = capsys.readouterr()
    assert "LOADING" in told.out
    assert told.err.startswith(f"wanhook.report: no record of the request: {run_of_two / name}: ")
    assert told.err.count("\n") == 1
    assert "--record FILE" in told.err
    assert names(run_of_two) == ["folder"]


def test_a_run_without_requests_leaves_none(tmp_path, capsys):
    TraceBuilder().save(tmp_path / "a.wanhook")
    assert main([str(tmp_path)]) == 0
    assert names(tmp_path) == []
    assert capsys.readouterr().err == ""
    assert main([str(tmp_path), "--record", str(tmp_path / "r.json")]) == 0
    assert "holds no request" in capsys.readouterr().err


def test_thousands_of_requests_take_time_in_proportion(tmp_path, capsys, monkeypatch):
    builder = TraceBuilder(device="cpu", chunk_bytes=1 << 18)
    for number in range(1200):
        builder.scope("request", 10 * number, 10 * number + 9)
    builder.save(tmp_path / "a.wanhook")
    found = inference_records(load(tmp_path))
    assert [(one.request, one.requests) for one in (found[0], found[-1])] == [(1, 1200), (1200, 1200)]
    assert all(before.started_unix_ns < after.started_unix_ns for before, after in itertools.pairwise(found))
    monkeypatch.setattr("wanhook.report.inference_record.MOST", 3)
    assert len(leave_records(load(tmp_path))) == 3
    assert "holds 1200 requests; the first 3 get a record" in capsys.readouterr().err


# Where recording stopped for a while ----------------------------------------------------------------------------------


def checked_request(builder):
    """A request of 100 s with 4 steps of 10 s, the second and third muted; the last one has a switch of 1 s."""
    builder.group("0", (0,))
    request = builder.scope("request", 0, 100 * SECOND, args=ASKED)
    builder.scope("text_encode", SECOND, 2 * SECOND, gpu=(SECOND, 2 * SECOND), parent=request)
    for step, sort in enumerate(("recorded", "muted", "muted", "recorded")):
        begin = (10 + 10 * step) * SECOND
        gpu = (begin, begin + (8 if sort == "muted" else 9) * SECOND)
        if sort == "muted":
            builder.gate(begin - 1000, False)
        scope = builder.scope("denoise_step", begin, gpu[1], gpu=gpu, parent=request, verify=sort)
        if sort == "muted":
            builder.gate(gpu[1] + 1000, True)
        else:
            builder.scope("attn_kernel", begin, begin + SECOND, gpu=(begin, begin + SECOND), parent=scope, level="op")
            builder.collective("alltoall_", begin, gpu=(begin, begin + SECOND), role="qkv", scope=scope)
    return builder


def test_what_muted_steps_held_is_not_known(tmp_path):
    builder = checked_request(TraceBuilder())
    builder.snapshot(0)
    builder.end(110 * SECOND)
    (record,) = records(tmp_path, builder)
    assert (record.complete, record.incomplete) == (
        False, ["rank 0: recording was paused in 2 of 4 steps, to measure its cost"],
    )  # fmt: skip
    unknown = ("attn_kernel", "comm_total", "qkv_all_to_all", "out_all_to_all", "expert_switch_total")
    assert {name: record.stages[name] for name in unknown} == dict.fromkeys(unknown)
    assert (record.expert_switch_total_s, record.inference_s) == (None, None)
    assert (record.allocated_peak, record.reserved_peak) == (None, None)
    # Not touched by what the steps held.
    assert (record.request_s, record.steps, record.s_per_step, record.model_load_s) == (100.0, 4, 9.0, 0.0)
    assert (record.stages["denoise_step_total"].count, record.stages["text_encode"].count) == (4, 1)
    assert (record.ranks[0].first_step_s, record.ranks[0].s_per_later_step) == (9.0, 9.0)


def test_a_pause_inside_a_request_leaves_its_length_alone(tmp_path):
    builder = wan_rank()
    builder.gate(60 * SECOND, False)
    builder.gate(63 * SECOND, True)
    (record,) = records(tmp_path, builder)
    assert record.incomplete == ["rank 0: recording was paused for 3.000 s inside it"]
    assert (record.request_s, record.steps, record.s_per_step, record.inference_s) == (100.0, None, None, None)
    assert record.stages["request_total"].count == 1
    assert {name for name, total in record.stages.items() if total} <= {"request_total", *made_load_stages(record)}


def made_load_stages(record):
    """The stages of the load, which lay before the pause."""
    return [name for name in record.stages if name.startswith("load") or name in ("configure", "fsdp_wrap")]


def test_a_pause_before_a_request_hides_its_load(tmp_path):
    builder = wan_rank()
    builder.gate(35 * SECOND, False)
    builder.gate(37 * SECOND, True)
    (record,) = records(tmp_path, builder)
    assert record.incomplete == ["rank 0: recording was paused for 2.000 s before it"]
    assert (record.model_load_s, record.total_s, record.steps, record.inference_s) == (None, None, 3, 95.0)
    assert not any(record.stages[name] for name in made_load_stages(record))


def test_gaps_of_another_request_do_not_count(tmp_path):
    builder = wan_rank(requests=2)
    builder.gate(155 * SECOND, False)
    builder.gate(156 * SECOND, True)
    first, second = records(tmp_path, builder)
    assert (first.complete, second.complete) == (True, False)
