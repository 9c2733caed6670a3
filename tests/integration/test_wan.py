"""The integration with Wan, on stand-ins of both generations (tests/made_wan2) and two gloo ranks."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from programs import ROOT, environment
from wanhook.analysis.inference import inference_records
from wanhook.analysis.memory import memory_of
from wanhook.tracefile.model import Run, load

MADE = ROOT / "tests" / "made_wan2"
STEPS, FORWARDS, LAYERS, T5_LAYERS = 4, 8, 3, 2
GENERATIONS = {"wan21": ("t2v-14B", 1), "wan22": ("t2v-A14B", 2)}  # root: its task, models
ONLY_RANK_0 = {"request/vae_decode", "save"}
STEP = "request/denoise/denoise_step"
BLOCK = f"{STEP}/dit_forward/block"
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


def counted(trace) -> dict[str, int]:
    return dict(Counter(trace.paths[path] for path in trace.scopes["path"]))


def told(trace, path: str) -> list[dict]:
    """The arguments of the scopes with this path, in order."""
    return [trace.scope_args.get(int(scope["id"]), {}) for scope in trace.scopes if trace.paths[scope["path"]] == path]


@dataclass
class Ran:
    returncode: int
    output: str
    errors: str
    directory: Path

    def lines(self) -> list[str]:
        """What Wan itself said, times and rates masked; two ranks' progress bars mix as they will."""
        told = (self.output + self.errors).splitlines()
        return sorted(re.sub(r"\d{4}-\d\d-\d\d [\d:,.]+", "TIME", line) for line in told if "INFO" in line)

    def result(self, name: str) -> bytes:
        return torch.load(self.directory / name).numpy().tobytes()

    def run(self) -> Run:
        return load(self.directory / "run")


def generate(root: str, directory: Path, *arguments: str, ranks: int = 2, record: bool = True, **changes: str) -> Ran:
    directory.mkdir()
    command = [sys.executable, str(MADE / root / "generate.py"), "--sample_steps", str(STEPS), *arguments]
    if ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        sharded = ["--ulysses_size", str(ranks), "--dit_fsdp", "--t5_fsdp"]
        command = [sys.executable, *torchrun, *command[1:], *sharded]
    if record:
        command = [sys.executable, "-m", "wanhook", "run", "--out", "run", "--no-report", "--", *command]
    ended = subprocess.run(
        command, cwd=directory, env=environment(**changes), capture_output=True, text=True, timeout=240, check=False
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr, directory)


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
    """Both experts are WanModels: each block's unit is gathered once a forward, the root once a model."""
    generation, recorded, _ = both
    for trace in recorded.run():
        calls = trace.collectives
        names = [(trace.strings[row["op"]], trace.strings[row["role"]], trace.strings[row["unit"]]) for row in calls]
        units = Counter(unit for op, role, unit in names if role == "fsdp" and "allgather" in op)
        encoder = {unit for unit in units if unit.split()[0] == "T5Encoder"}
        assert {"T5Encoder", "T5Encoder blocks.0"} <= encoder
        blocks = {f"WanModel blocks.{number}": FORWARDS for number in range(LAYERS)}
        wanted = {"WanModel": 2 if generation == "wan22" else 1, **blocks}
        assert {unit: count for unit, count in units.items() if unit not in encoder} == wanted
        assert {unit for _, role, unit in names if role != "fsdp"} == {""}


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


def pipeline_paths(ran: Ran) -> dict[str, int]:
    assert ran.returncode == 0, ran.errors
    (trace,) = ran.run().traces
    assert trace.meta.get("notes", []) == []
    return counted(trace)


@pytest.mark.parametrize("task", ["i2v-14B", "flf2v-14B", "vace-14B"])
def test_other_pipelines_of_wan21(tmp_path, task):
    there = pipeline_paths(generate("wan21", tmp_path / "run", "--task", task, ranks=1))
    assert (there["load"], there["request"], there["request/denoise"], there[STEP]) == (1, 1, 1, STEPS)
    assert there["load/load_t5"] == there["load/load_vae"] == there["load/load_dit"] == 1
    assert there["request/vae_encode"] == there["request/vae_decode"] == there["save"] == 1
    assert there[BLOCK] == there[f"{BLOCK}/ffn"] == there[f"{BLOCK}/cross_attn"] == EACH_BLOCK
    images = task != "vace-14B"
    assert there.get("load/load_clip", 0) == there.get("request/clip_encode", 0) == images
    assert there[f"{BLOCK}/cross_attn/attn_kernel"] == EACH_BLOCK * (1 + images)
    assert there.get(f"{STEP}/dit_forward/vace_block", 0) == (0 if images else FORWARDS * 2)


@pytest.mark.parametrize("task", ["i2v-A14B", "ti2v-5B", "s2v-14B", "animate-14B"])
def test_other_pipelines_of_wan22(tmp_path, task):
    there = pipeline_paths(generate("wan22", tmp_path / "run", "--task", task, ranks=1))
    clips = 2 if task == "s2v-14B" else 1
    forwards = FORWARDS if "2v" in task and clips == 1 else STEPS * clips  # no guidance for speech and animation
    assert (there["load"], there["request"], there["request/denoise"]) == (1, 1, clips)
    assert (there[STEP], there[f"{STEP}/dit_forward"]) == (STEPS * clips, forwards)
    experts = 2 if task == "i2v-A14B" else 1
    assert there["load/load_dit"] == there["load/configure"] == experts
    assert there.get(f"{STEP}/expert_switch", 0) == experts - 1
    assert there[BLOCK] == there[f"{BLOCK}/ffn"] == there[f"{BLOCK}/cross_attn"] == forwards * LAYERS
    assert there[f"{BLOCK}/self_attn/attn_kernel"] == forwards * LAYERS
    assert there["request/vae_encode"] == (2 if task in ("ti2v-5B", "s2v-14B") else 1)
    assert there["request/vae_decode"] == 1
    assert there["save"] == (2 if task == "s2v-14B" else 1)
    if task == "animate-14B":
        assert there["load/load_clip"] == there["request/clip_encode"] == 1
    if task == "s2v-14B":
        assert there[f"{STEP}/dit_forward/cross_attn"] == forwards


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
