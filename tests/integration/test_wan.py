"""The integration with Wan, on stand-ins of both generations (tests/made_wan2) and two gloo ranks."""

from collections import Counter

import pytest

from programs import ROOT
from wan_runs import BLOCK, FORWARDS, LAYERS, STEP, STEPS, T5_LAYERS, Ran, counted, gathered, generate, told
from wanhook.analysis.inference import inference_records
from wanhook.analysis.memory import memory_of

GENERATIONS = {"wan21": ("t2v-14B", 1), "wan22": ("t2v-A14B", 2)}  # root: its task, models
ONLY_RANK_0 = {"request/vae_decode", "save"}
EACH_BLOCK = FORWARDS * LAYERS
OP_SCOPES = {
    f"{BLOCK}/self_attn": EACH_BLOCK,
    f"{BLOCK}/self_attn/attn_kernel": EACH_BLOCK,
    f"{BLOCK}/cross_attn": EACH_BLOCK,
    f"{BLOCK}/cross_attn/attn_kernel": EACH_BLOCK,
    f"{BLOCK}/ffn": EACH_BLOCK,
}


def stages(generation: str) -> dict[str, int]:
    """Scopes of one request on rank 0 by path, without those below a forward."""
    second = generation == "wan22"
    models = GENERATIONS[generation][1]
    configured = "load/configure" if second else "load"
    found = {
        "load": 1,
        "load/load_t5": 1,
        "load/load_t5/fsdp_wrap": 1,
        "load/load_vae": 1,
        "load/load_dit": models,
        f"{configured}/barrier_wait": models,
        f"{configured}/fsdp_wrap": models,
        "request": 1,
        "request/text_encode": 2,
        "request/denoise": 1,
        STEP: STEPS,
        f"{STEP}/dit_forward": FORWARDS,
        f"{STEP}/scheduler_step": STEPS,
        "request/vae_decode": 1,
        "request/barrier_wait": 1,
        "save": 1,
    }
    # Wan2.1 ends without a barrier.
    return found | ({configured: 2, f"{STEP}/expert_switch": 1, "barrier_wait": 1} if second else {})


@pytest.fixture(scope="module", params=sorted(GENERATIONS))
def both(request, tmp_path_factory) -> tuple[str, Ran, Ran]:
    """(generation, recorded, not recorded): the same request on two ranks."""
    folder = tmp_path_factory.mktemp(request.param)
    task = ("--task", GENERATIONS[request.param][0])
    recorded = generate(request.param, folder / "recorded", *task)
    return request.param, recorded, generate(request.param, folder / "bare", *task, record=False)


def test_every_scope_is_there_on_every_rank(both):
    generation, recorded, _ = both
    wanted = {
        **stages(generation),
        BLOCK: EACH_BLOCK,
        **OP_SCOPES,
        f"{STEP}/dit_forward/sp_gather": FORWARDS,
    }
    run = recorded.run()
    assert run.problems == []
    assert sorted(trace.rank for trace in run) == [0, 1]
    for trace in run:
        there = {path: count for path, count in counted(trace).items() if not path.endswith("fsdp wait")}
        left_out = ONLY_RANK_0 if trace.rank else set()
        assert there == {path: count for path, count in wanted.items() if path not in left_out}
        assert trace.meta.get("notes", []) == []


def test_collectives_have_their_roles(both):
    _, recorded, _ = both
    for trace in recorded.run():
        roles = Counter(trace.strings[role] for role in trace.collectives["role"])
        assert roles["qkv"] == 3 * EACH_BLOCK
        assert roles["out"] == EACH_BLOCK
        assert roles["sp_gather"] == FORWARDS
        inside = {trace.paths[path] for path in trace.path_of(trace.collectives["scope"]) if path >= 0}
        assert f"{BLOCK}/self_attn" in inside


def test_weights_are_gathered_by_unit(both):
    """Both experts are WanModels: their units have the same names."""
    generation, recorded, _ = both
    for trace in recorded.run():
        assert gathered(trace) == {
            **{f"WanModel blocks.{number}": FORWARDS for number in range(LAYERS)},
            "WanModel": GENERATIONS[generation][1],
            **{f"T5Encoder blocks.{number}": 2 for number in range(T5_LAYERS)},
            "T5Encoder": 1,
        }


def test_scopes_say_what_they_are(both):
    generation, recorded, _ = both
    experts = ["high_noise", "high_noise", "low_noise", "low_noise"]
    for trace in recorded.run():
        steps = told(trace, STEP)
        assert [one["step"] for one in steps] == list(range(STEPS))
        assert [one["timestep"] for one in steps] == [1000, 937, 833, 625]
        forwards = told(trace, f"{STEP}/dit_forward")
        assert [one["cond"] for one in forwards] == [True, False] * STEPS
        assert [one["index"] for one in told(trace, BLOCK)] == list(range(LAYERS)) * FORWARDS
        (request,) = told(trace, "request")
        assert request["sampling_steps"] == STEPS
        assert (request["width"], request["height"], request["seed"]) == (8, 8, 7)
        assert "cats" not in str(trace.scope_args)
        if generation == "wan22":
            assert [one["expert"] for one in steps] == experts
            assert [one["expert"] for one in forwards] == [expert for expert in experts for _ in range(2)]
            assert [one["expert"] for one in told(trace, "load/load_dit")] == ["low_noise", "high_noise"]
            assert told(trace, f"{STEP}/expert_switch") == [{"expert": "low_noise"}]


def test_nothing_else_changes(both):
    _, recorded, bare = both
    assert recorded.returncode == bare.returncode == 0
    assert recorded.lines() == bare.lines()
    for name in ("latents-0.pt", "latents-1.pt", "video.pt"):
        assert recorded.result(name) == bare.result(name)
    assert sorted(file.name for file in recorded.directory.iterdir() if file.name != "run") == sorted(
        file.name for file in bare.directory.iterdir()
    )


@pytest.mark.parametrize("level", ["stage", "block"])
def test_what_a_level_leaves_out_is_not_recorded(tmp_path, level):
    ran = generate("wan22", tmp_path / "run", ranks=1, WANHOOK_LEVEL=level)
    (trace,) = ran.run().traces
    there = counted(trace)
    assert there[STEP] == STEPS
    assert there.get(BLOCK, 0) == (EACH_BLOCK if level == "block" else 0)
    assert not there.keys() & OP_SCOPES.keys()


@pytest.mark.parametrize("how", ["exception", "kill"])
def test_a_rank_that_fails_fails_as_without_us(tmp_path, how):
    """torchrun says so with the same status, and what was recorded until then is readable."""
    act = "raise ValueError('its own')" if how == "exception" else "import os; os.kill(os.getpid(), 9)"
    broken = (
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import wan.text2video as t\n"
        "    def bad(*a, **k):\n"
        f"        {act}\n"
        "    t.WanT2V.finished = bad\n"
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "break_rank.py").write_text(broken)
    statuses = []
    for record in (True, False):
        ran = generate("wan22", tmp_path / str(record), "--break_with", "break_rank", record=record,
                       PYTHONPATH=f"{ROOT}:{tmp_path / 'site'}")  # fmt: skip
        statuses.append(ran.returncode)
        if record:
            run = ran.run()
            assert sorted(trace.rank for trace in run) == [0, 1]
            assert all(counted(trace)[STEP] == STEPS for trace in run)
    assert statuses == [1, 1]


def test_record_of_a_request_under_the_check_of_its_cost(tmp_path):
    """Half of the steps are muted, perhaps with the switch of the expert: the record says so and guesses nothing."""
    ran = generate("wan22", tmp_path / "ran", "--sample_steps", "8", WANHOOK_VERIFY="1")
    assert ran.returncode == 0
    run = ran.run()
    (record,) = inference_records(run)
    assert record.complete is False
    asked = [f"rank {rank}: recording was paused in 4 of 8 steps, to measure its cost" for rank in range(2)]
    assert record.incomplete == asked
    unknown = ("attn_kernel", "block", "scheduler_step", "comm_total", "qkv_all_to_all", "expert_switch_total")
    assert {name: record.stages[name] for name in unknown} == dict.fromkeys(unknown)
    assert (record.inference_s, record.expert_switch_total_s, record.allocated_peak) == (None, None, None)
    assert (record.steps, record.stages["denoise_step_total"].count) == (8, 8)
    for trace in run:
        (memory,) = memory_of([trace])
        assert (memory.check.contradictions, memory.check.equal) == (0, memory.check.places)
