"""What the integration with Wan changes in Wan's modules, and that nothing of it stays."""

import re

import pytest

from programs import ROOT, run_program
from wanhook.integrations.wan.points import POINTS

MADE = ROOT / "tests" / "made_wan2"


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("root", ["wan21", "wan22"])
def test_attach_detach_attach(tmp_path, root, when):
    """`late`: Wan was imported, and its names copied, before anybody asked."""
    ended = run_program("wan_patches", tmp_path, MADE / root, when)
    assert ended.returncode == 0, ended.errors
    changed = ended.output.splitlines()
    generation = {"wan21": "2.1", "wan22": "2.2"}[root]
    wanted = {f"{point.module}.{point.attribute}" for point in POINTS if generation in point.generations}
    assert wanted <= set(changed)
    copies = {"wan21": "wan.modules.model.flash_attention", "wan22": "wan.distributed.ulysses.all_to_all"}
    assert {copies[root], "torch.distributed.barrier", "wan.text2video.shard_model"} <= set(changed)
    group, flat = "torch.distributed.distributed_c10d.ProcessGroup", "torch.distributed.fsdp._runtime_utils"
    of_the_recorder = {f"{group}._start_coalescing", f"{group}._end_coalescing"}
    of_the_recorder |= {"torch.distributed.distributed_c10d._coalescing_manager", f"{flat}._unshard"}
    assert of_the_recorder <= set(changed)


def test_torch_compile_sees_through_it(tmp_path):
    ended = run_program("wan_compiled", tmp_path, MADE / "wan22", "run")
    assert ended.returncode == 0, ended.errors
    # model.compile() and block.compile() leave the scope around the call in place; what is inside is compiled.
    assert ended.output.strip() == str(["outside", "outside/dit_forward", *["outside/block"] * 3])
    assert [line for line in ended.errors.splitlines() if "wanhook" in line] == []


def test_point_that_is_missing_costs_its_scope_and_a_note(tmp_path):
    """A pipeline whose expert choice was renamed, and an attention that is no more."""
    ended = run_program("wan_changed", tmp_path, MADE / "wan22", "run")
    assert ended.returncode == 0, ended.errors
    paths, _, notes = ended.output.partition("NOTES\n")
    assert "request/denoise/denoise_step/dit_forward/block/self_attn\n" in paths
    assert "expert_switch" not in paths
    assert "attn_kernel" not in paths
    assert sorted(notes.splitlines()) == [
        "wan.modules.attention:flash_attention is not there: the scope attn_kernel will be missing",
        "wan.text2video:WanT2V._prepare_model_for_timestep is not there: the scope expert_switch will be missing",
    ]
    assert ended.own_lines == []


def test_every_point_of_a_generation_is_documented():
    text = (ROOT / "docs" / "integrations.md").read_text()
    names = {name for row in re.findall(r"^\|.*\|$", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    for point in POINTS:
        for name in (point.module, point.attribute):
            assert name in names, f"docs/integrations.md has no row with `{name}`"
        for scope in re.split(" and ", point.scope) if point.kind != "timesteps" else ["denoise_step"]:
            assert scope in names, f"docs/integrations.md has no row with `{scope}`"
