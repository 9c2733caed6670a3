"""The replay of recorded events against torch's counters, peaks and address maps, on a GPU."""

import pytest

from gpu.processes import Program, run_together

pytestmark = pytest.mark.gpu

OPERATIONS = 20_000


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "conf",
    [
        "",
        "expandable_segments:True",
        "max_split_size_mb:64",
        "roundup_power2_divisions:4",
        "roundup_power2_divisions:[1:2,4:8,64:4,256:1,>:16]",
        "garbage_collection_threshold:0.6",
        "expandable_segments:True,roundup_power2_divisions:8",
        "max_split_size_mb:128,garbage_collection_threshold:0.8",
    ],
)
def test_replay_is_exact(tmp_path, conf, threads):
    environment = {"PYTORCH_CUDA_ALLOC_CONF": conf, "PYTORCH_ALLOC_CONF": conf, "WANHOOK_MAX_MB": "512"}
    program = Program("replay_fuzz", tmp_path / "run", 1, OPERATIONS, threads, environment=environment)
    (finished,) = run_together([program], timeout=300)
    found = finished.answer
    assert found["dropped"] == 0
    assert found["refused"] == []
    assert (found["first_difference"], found["contradictions"], found["not_claimed"]) == ("None", 0, 0)
    assert found["places"] == found["equal"] > OPERATIONS // 20
    assert {name: ours for name, (ours, _) in found["peaks"].items()} == {n: t for n, (_, t) in found["peaks"].items()}
    assert found["failed"] > 0
