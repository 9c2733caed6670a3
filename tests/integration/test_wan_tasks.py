"""Every pipeline of both generations on two gloo ranks, and that together they go through every point of the table."""

import pytest

from programs import PROGRAMS
from wan_runs import (
    BLOCK,
    FORWARDS,
    LAYERS,
    MADE,
    REQUESTS,
    SHARDED,
    STEP,
    STEPS,
    T5_LAYERS,
    counted,
    gathered,
    launch,
    points,
    roles,
)
from wanhook.analysis.inference import inference_records
from wanhook.integrations.wan.points import POINTS

TASKS = sorted(REQUESTS)
NAMES = [f"{root}-{task}" for root, task in TASKS]
GENERATIONS = {"wan21": "2.1", "wan22": "2.2"}
FORWARD = f"{STEP}/dit_forward"
NO_GUIDANCE = ("s2v-14B", "animate-14B")
# These carry no scope of their own around what they wrap: the test of the tasks counts the scopes that they lead to.
OTHER_KINDS = ("loop", "timesteps", "all_to_all")
# Wan2.2 loads CLIP and Animate's model to where they are used, and moves neither within a request.
NEVER_ENTERED = {
    "2.1": set(),
    "2.2": {
        "wan.modules.animate.clip:XLMRobertaCLIP.cpu",
        "wan.modules.animate.clip:XLMRobertaCLIP.to",
        "wan.modules.animate.model_animate:WanAnimateModel.cpu",
        "wan.modules.animate.model_animate:WanAnimateModel.to",
    },
}


def shape_of(root: str, task: str) -> tuple[int, int, int]:
    """(requests, loops over the steps, forwards)"""
    requests = 2 if "--requests" in REQUESTS[root, task] else 1
    loops = 2 if task == "s2v-14B" else requests
    return requests, loops, STEPS * loops * (1 if task in NO_GUIDANCE else 2)


def loading(root: str, task: str) -> dict[str, int]:
    experts = 2 if "A14B" in task else 1
    configured = "load/configure" if root == "wan22" else "load"
    found = {
        "load": 1,
        "load/load_t5": 1,
        "load/load_vae": 1,
        "load/load_dit": experts,
        configured: experts if root == "wan22" else 1,
        f"{configured}/barrier_wait": experts,
    }
    if "--dit_fsdp" in REQUESTS[root, task]:
        found |= {"load/load_t5/fsdp_wrap": 1, f"{configured}/fsdp_wrap": experts}
    if task in ("flf2v-14B", "animate-14B") or (root, task) == ("wan21", "i2v-14B"):
        found |= {"load/load_clip": 1}
    return found | ({"load/load_audio": 1} if task == "s2v-14B" else {})


def around_the_steps(root: str, task: str) -> dict[str, int]:
    requests, loops, _ = shape_of(root, task)
    found = {"request": requests, "request/text_encode": 2 * requests, "request/denoise": loops, STEP: STEPS * loops}
    found |= {f"{STEP}/scheduler_step": STEPS * loops, "request/vae_decode": requests, "save": 1}
    found |= {"request/barrier_wait": requests}
    if not task.startswith("t2"):
        found |= {"request/vae_encode": loops + (task == "ti2v-5B")}  # its VAE is asked for something odd first
    if "load/load_clip" in loading(root, task):
        found |= {"request/clip_encode": requests, "request/clip_encode/attn_kernel": 2 * requests}
    if task == "s2v-14B":
        found |= {"request/audio_encode": 1, "request/pose_encode": 1, "request/pose_encode/vae_encode": 2, "save": 2}
    if task == "animate-14B":
        found |= {"request/prepare_source": 2}
    return found | ({"barrier_wait": 1} if root == "wan22" else {})


def moves(root: str, task: str) -> dict[str, int]:
    """An offload for each time that a model is elsewhere. Loading leaves the text encoder on the CPU where it is not
    sharded, and everything else on the GPU."""
    asked = REQUESTS[root, task]
    if "--offload_model" not in asked:
        return {}
    text = 1 if "--t5_fsdp" in asked else 2
    if root == "wan21":  # twice: what the first request has moved away comes back
        clip = 3 if task == "i2v-14B" else 0
        return {"request/offload": text + 2 + clip + 2, f"{STEP}/offload": 1}
    if task == "s2v-14B":  # a clip ends with the model on the CPU
        return {"request/offload": text + 3}
    # The expert that is not wanted goes, and at the switch both move: one is left in the end.
    return {"request/offload": text + 1, f"{STEP}/offload": 1, f"{STEP}/expert_switch/offload": 2}


def within_forwards(root: str, task: str) -> dict[str, int]:
    _, _, forwards = shape_of(root, task)
    blocks, gathers = forwards * LAYERS, forwards * (2 if task in NO_GUIDANCE else 1)
    of_images = 2 if root == "wan21" and task in ("i2v-14B", "flf2v-14B") else 1
    found = {FORWARD: forwards, f"{FORWARD}/sp_gather": gathers}
    kinds = {BLOCK: blocks} | ({f"{FORWARD}/vace_block": 2 * forwards} if task == "vace-14B" else {})
    for path, count in kinds.items():
        found |= {path: count, f"{path}/ffn": count}
        for attention, kernels in (("self_attn", 1), ("cross_attn", of_images)):
            found |= {f"{path}/{attention}": count, f"{path}/{attention}/attn_kernel": count * kernels}
    if task == "s2v-14B":
        found |= {f"{FORWARD}/cross_attn": forwards, f"{FORWARD}/cross_attn/attn_kernel": forwards}
    return found | ({f"{STEP}/expert_switch": 1} if "A14B" in task else {})


@pytest.mark.parametrize(("root", "task"), TASKS, ids=NAMES)
def test_every_scope_of_a_task_is_there_on_both_ranks(wan_request, root, task):
    ran = wan_request(root, task)
    assert ran.returncode == 0, ran.errors
    run = ran.run()
    assert run.problems == []
    assert sorted(trace.rank for trace in run) == [0, 1]
    wanted = {
        **loading(root, task),
        **around_the_steps(root, task),
        **moves(root, task),
        **within_forwards(root, task),
    }
    for trace in run:
        there = {path: count for path, count in counted(trace).items() if not path.endswith("fsdp wait")}
        only_rank_0 = {"save"} | (set() if task in NO_GUIDANCE else {"request/vae_decode"})
        left_out = only_rank_0 if trace.rank else set()
        assert there == {path: count for path, count in wanted.items() if path not in left_out}
        assert trace.meta.get("notes", []) == []


@pytest.mark.parametrize(("root", "task"), TASKS, ids=NAMES)
def test_collectives_of_a_task_have_their_roles_and_units(wan_request, root, task):
    requests, _, forwards = shape_of(root, task)
    attentions = forwards * (LAYERS + (2 if task == "vace-14B" else 0))
    model = {"vace-14B": "VaceWanModel", "animate-14B": "WanAnimateModel"}.get(task, "WanModel")
    units = {
        **{f"{model} blocks.{number}": forwards for number in range(LAYERS)},
        model: 2 if "A14B" in task else 1,
        **{f"T5Encoder blocks.{number}": 2 * requests for number in range(T5_LAYERS)},
        "T5Encoder": 1,
    }
    for trace in wan_request(root, task).run():
        found = roles(trace)
        assert (found["qkv"], found["out"]) == (3 * attentions, attentions)
        assert found["sp_gather"] == forwards * (2 if task in NO_GUIDANCE else 1)
        assert gathered(trace) == (units if set(SHARDED) <= set(REQUESTS[root, task]) else {})


@pytest.mark.parametrize(("root", "task"), [("wan21", "i2v-14B"), ("wan22", "animate-14B")])
def test_attention_of_clip_is_not_the_models(wan_request, root, task):
    """CLIP calls the same function: the record's attn_kernel is without it."""
    ran = wan_request(root, task)
    requests, _, forwards = shape_of(root, task)
    records = inference_records(ran.run())
    assert len(records) == requests
    for record in records:
        a_block = 3 if root == "wan21" else 2  # self attention, and cross attention to the text and to the image
        assert record.stages["attn_kernel"].count == forwards // requests * LAYERS * a_block
    (clip,) = {counted(trace)["request/clip_encode/attn_kernel"] for trace in ran.run()}
    assert clip == 2 * requests


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A request to WanVaceMP, which has its own processes: two workers, and the one that asks them."""
    directory = tmp_path_factory.mktemp("served") / "run"
    command = str(PROGRAMS / "wan_points.py"), str(MADE / "wan21" / "serve_vace.py")
    return launch(directory, *command, ranks=1)


def test_a_request_to_other_processes(served):
    assert served.returncode == 0, served.errors
    asking, *workers = sorted(served.run(), key=lambda trace: len(trace.scopes))
    assert counted(asking) == {"request": 1}
    assert sorted(trace.rank for trace in workers) == [0, 1]
    for trace in workers:
        there = counted(trace)
        assert there["denoise/denoise_step/dit_forward/vace_block"] == FORWARDS * 2
        assert "request" not in there
    assert "cats" not in str(asking.scope_args)


@pytest.mark.parametrize("root", sorted(GENERATIONS))
def test_every_point_is_gone_through(wan_request, served, root):
    """Each in its own scope, on a run of this generation; a new row of the table needs a stand-in that has it."""
    runs = [wan_request(root, task).run() for each, task in TASKS if each == root]
    runs += [served.run()] if root == "wan21" else []
    entered = set().union(*(points(trace) for run in runs for trace in run))
    wanted = [point for point in POINTS if GENERATIONS[root] in point.generations]
    missing = set()
    for point in wanted:
        scopes = {scope for name, scope in entered if name == str(point)}
        if not (scopes if point.kind in OTHER_KINDS else scopes & {point.scope}):
            missing.add(str(point))
    assert missing == NEVER_ENTERED[GENERATIONS[root]]
    assert {name for name, _ in entered} <= {str(point) for point in wanted}
