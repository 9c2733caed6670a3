"""The demo as a user starts it: two gloo processes, recorded, against the counts that its architecture implies."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from wanhook.analysis.memory import memory_of
from wanhook.demo import presets
from wanhook.demo.presets import PRESETS, expected_counts, process_counts
from wanhook.demo.scheduler import FlowScheduler, experts_of

TINY = PRESETS["tiny"]
EXPECTED = expected_counts(TINY, world_size=2)
FORWARD = "request/denoise/denoise_step/dit_forward"
WRAP = "load/load_dit/fsdp_wrap"


@dataclass(frozen=True)
class Finished:
    status: int
    output: str
    errors: str
    directory: Path

    @property
    def video(self) -> str:
        """The line that describes the video (shape, moments, checksum); empty when the ranks did not get that far."""
        found = re.search(r"^video .*$", self.output, re.MULTILINE)
        return found.group() if found else ""


def run_demo(directory: Path, *arguments: str) -> Finished:
    """Runs the demo on the CPU, whatever the machine has, in an empty directory of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANHOOK")}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    environment["OMP_NUM_THREADS"] = "1"  # more would spin against whatever else the machine runs
    # the package under test may lie in a source tree that is not installed, and the demo runs from elsewhere
    package_root = str(Path(presets.__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([package_root, environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "wanhook.demo", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=240)
    return Finished(done.returncode, done.stdout, done.stderr, directory)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Finished:
    return run_demo(tmp_path_factory.mktemp("recorded"), "--preset", "tiny", "--out", "run")


@pytest.fixture(scope="module")
def unrecorded(tmp_path_factory) -> Finished:
    return run_demo(tmp_path_factory.mktemp("unrecorded"), "--preset", "tiny", "--no-record")


@pytest.fixture(scope="module")
def run(recorded):
    import wanhook

    assert recorded.video, recorded.errors
    return wanhook.load(recorded.directory / "run")


def scope_counts(trace) -> Counter:
    return Counter(trace.paths[path] for path in trace.scopes["path"])


def collective_rows(trace) -> list[tuple[str, str, str]]:
    """(op, role, scope path) of each collective."""
    ops, roles = trace.collectives["op"], trace.collectives["role"]
    # path is an index into paths; a collective outside every scope has none
    paths = [trace.paths[path] if path >= 0 else "" for path in trace.collectives["path"]]
    return [(trace.strings[op], trace.strings[role], path) for op, role, path in zip(ops, roles, paths, strict=True)]


def is_fsdp_gather(op: str, role: str) -> bool:
    return "allgather" in op and role != "sp_gather"


def test_it_ends_well_and_prints_the_report(recorded):
    assert recorded.status == 0, recorded.errors
    report = recorded.output.split(recorded.video, 1)[1]
    assert "denoise_step" in report
    assert "all_to_all qkv" in report


def test_every_rank_left_one_file_and_nothing_is_missing(run):
    assert [trace.rank for trace in run.traces] == [0, 1]
    assert run.problems == []
    assert all(trace.health.state == "stopped" and trace.health.dropped == 0 for trace in run)


def test_scopes_are_those_that_the_architecture_implies(run):
    assert scope_counts(run.rank(0)) == EXPECTED.scopes
    others = {path: count for path, count in EXPECTED.scopes.items() if path not in EXPECTED.first_rank_only}
    assert scope_counts(run.rank(1)) == others


@pytest.mark.parametrize("rank", [0, 1])
def test_collectives_are_those_that_the_architecture_implies(run, rank):
    rows = collective_rows(run.rank(rank))
    counted = Counter(role for op, role, _ in rows if not is_fsdp_gather(op, role) and role)
    counted["fsdp_all_gather"] = sum(is_fsdp_gather(op, role) for op, role, _ in rows)
    counted["barrier"] = sum(op.startswith("barrier") for op, _, _ in rows)
    assert counted == EXPECTED.collectives


@pytest.mark.parametrize("rank", [0, 1])
def test_collectives_lie_in_the_scopes_that_issue_them(run, rank):
    rows = collective_rows(run.rank(rank))
    assert {path for _, role, path in rows if role in ("qkv", "out")} == {f"{FORWARD}/block/self_attn"}
    assert {path for _, role, path in rows if role == "sp_gather"} == {FORWARD}
    # FSDP gathers a unit before it enters the block
    assert {path for op, role, path in rows if is_fsdp_gather(op, role)} == {FORWARD, "request/text_encode"}


def test_every_all_to_all_has_a_role(run):
    for trace in run:
        rows = collective_rows(trace)
        assert all(op == "alltoall_base_" for op, role, _ in rows if role in ("qkv", "out"))
        assert all(role in ("qkv", "out") for op, role, _ in rows if "alltoall" in op)


def test_scopes_carry_their_arguments(run):
    trace = run.rank(0)
    by_path = {}
    for scope in trace.scopes:
        arguments = trace.scope_args.get(int(scope["id"]), {})
        by_path.setdefault(trace.paths[scope["path"]], []).append(arguments)
    experts = experts_of(FlowScheduler(TINY.steps, TINY.shift).timesteps, TINY.boundary)
    steps = [{"step": step, "expert": expert} for step, expert in enumerate(experts)]
    assert by_path["request/denoise/denoise_step"] == steps
    assert by_path[FORWARD] == [{"cond": True}, {"cond": False}] * TINY.steps
    assert by_path["load/load_dit"] == [{"expert": "low_noise"}, {"expert": "high_noise"}]
    assert [arguments["index"] for arguments in by_path[f"{FORWARD}/block"][: TINY.dit.layers]] == list(
        range(TINY.dit.layers)
    )


def test_memory_of_both_ranks_is_exact_and_belongs_to_the_experts(run):
    for memory in memory_of(run.traces):
        check = memory.check
        assert (check.equal, check.first_difference) == (check.places, None)
        assert check.places > 50  # a sample at each edge of each stage
        base = {one.source.component: one.blocks for one in memory.base.owners if one.source.path == WRAP}
        assert memory.base.begin_of == "request/denoise"
        assert set(base) == {"low_noise", "high_noise"}
        assert base["low_noise"] == base["high_noise"]
        assert sum(one.allocated_bytes for one in memory.base.owners) == memory.base.moment.allocated_bytes
        stages = {row.path: row for row in memory.scopes}
        assert stages["request/denoise/denoise_step"].occurrences == TINY.steps
        assert stages["load"].left_behind.max_bytes > 0


def test_recording_does_not_change_the_video(recorded, unrecorded):
    assert unrecorded.status == 0, unrecorded.errors
    assert recorded.video == unrecorded.video


def test_no_record_leaves_nothing_behind(unrecorded):
    assert list(unrecorded.directory.iterdir()) == []


def test_sequence_parallelism_does_not_change_the_video(unrecorded, tmp_path):
    single = run_demo(tmp_path, "--preset", "tiny", "--no-record", "--nproc", "1")
    assert single.status == 0, single.errors
    numbers = [[float(x) for x in re.findall(r"-?\d+\.\d+", one.video)] for one in (single, unrecorded)]
    assert len(numbers[0]) == 2
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)


def test_a_directory_in_use_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    refused = run_demo(tmp_path, "--out", "run")
    assert refused.status == 2
    assert "is not empty" in refused.errors
    assert "--out" in refused.errors


def test_heads_that_do_not_divide_are_refused_with_the_choices(tmp_path):
    refused = run_demo(tmp_path, "--preset", "tiny", "--nproc", "3")
    assert refused.status == 2
    assert "take 1, 2, 4, 8" in refused.errors


def test_expected_counts_of_a_case_counted_by_hand():
    # 8 steps of 2 forwards through 6 blocks; timesteps 1000, 972, 937, 892 | 833, 750, 625, 416
    assert expected_counts(TINY, 2).collectives == {
        "qkv": 288,
        "out": 96,
        "sp_gather": 16,
        "fsdp_all_gather": 2 * 2 + 1 + 96 + 2,
        "barrier": 3,
    }
    assert expected_counts(TINY, 2).scopes["request/denoise/denoise_step/expert_switch"] == 1
    assert expected_counts(TINY, 1).collectives == {}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_presets_fit_together(preset):
    _, frames, height, width = preset.video.latent
    assert preset.video.frames == 4 * (frames - 1) + 1
    assert (preset.video.height, preset.video.width) == (8 * height, 8 * width)
    assert height % preset.dit.patch[1] == width % preset.dit.patch[2] == 0
    assert preset.dit.dim // preset.dit.heads % 2 == 0
    assert {1, 2, 4, 8} <= set(process_counts(preset))


def test_the_decoder_gives_the_same_video_in_one_chunk():
    torch = pytest.importorskip("torch")
    from wanhook.demo.vae import VaeDecoder
    from wanhook.demo.weights import build

    decoder = build(lambda: VaeDecoder(TINY.vae, 4), seed=1)
    latents = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        at_once = decoder(latents.unsqueeze(0), {}).squeeze(0).clamp(-1, 1)
        frame_by_frame = decoder.decode(latents)
    assert frame_by_frame.shape == (3, 9, 16, 16)
    torch.testing.assert_close(frame_by_frame, at_once)
