"""What S2V and Animate make of the sound and the videos that they are given, on the stand-in of Wan2.2."""

import subprocess
import sys
from collections import Counter

import pytest

from programs import ROOT, environment
from wanhook.tracefile.model import load

GENERATE = ROOT / "tests" / "made_wan2" / "wan22" / "generate.py"
WANTED = {
    "s2v-14B": {
        "load/load_audio": 1,
        "request/audio_encode": 1,
        "request/pose_encode": 1,
        "request/pose_encode/vae_encode": 2,
    },
    "animate-14B": {"request/prepare_source": 2},
}


@pytest.mark.parametrize("task", sorted(WANTED))
def test_sources_have_their_stages(tmp_path, task):
    command = [sys.executable, str(GENERATE), "--task", task, "--sample_steps", "2"]
    recorded = environment(WANHOOK="1", WANHOOK_OUT="run")
    subprocess.run(command, cwd=tmp_path, env=recorded, capture_output=True, timeout=240, check=True)
    (trace,) = load(tmp_path / "run").traces
    assert trace.meta.get("notes", []) == []
    there = Counter(trace.paths[path] for path in trace.scopes["path"])
    assert {path: there[path] for path in WANTED[task]} == WANTED[task]
