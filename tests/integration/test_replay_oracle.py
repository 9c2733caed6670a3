"""The block model against torch's own allocator, which runs here over a fake device: counters, peaks and address maps.

`PYTHONPATH=.:tests python tests/integration/test_replay_oracle.py OPERATIONS SEEDS` compares more of them.
"""

import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from allocator_oracle import Recorded, build, differences, record, replayed, run_checked
from wanhook import _replay
from wanhook.analysis.allocator_settings import in_force

SETTINGS = [
    "",
    "expandable_segments:True",
    "max_split_size_mb:64",
    "max_split_size_mb:256",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[1:2,4:8,64:4,256:1,>:16]",
    "garbage_collection_threshold:0.6",
    "large_segment_size_mb:64",
    "expandable_segments:True,roundup_power2_divisions:8",
    "expandable_segments:True,large_segment_size_mb:40,max_split_size_mb:200",
    "max_split_size_mb:128,garbage_collection_threshold:0.8,roundup_power2_divisions:2",
]
MIXES = ["", "s", "se", "seo", "seopr", "seopu", "epc"]


def mix_for(conf: str, mix: str) -> str:
    """Without what torch itself does not bear with these settings, and what a replay cannot tell from the events: where
    a block ends that is put back into an expandable segment that has grown since, when sizes are rounded up."""
    if "expandable" in conf:
        mix = mix.replace("r", "")
        mix = mix.replace("c", "") if "roundup" in conf else mix
    return mix


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("oracle"))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("conf", SETTINGS)
def test_replay_is_exact(program, tmp_path, conf, mix):
    recorded = record(program, tmp_path, conf, seed=1, operations=4000, mix=mix_for(conf, mix))
    found = replayed(recorded, in_force([conf]))
    assert differences(recorded, found) == []
    assert found.contradictions.tolist() == []
    assert len(recorded.probes) > 150
    assert len(recorded.snapshots) > 3
    if "o" in mix:
        assert " 0 failed allocations" not in recorded.said
    if "s" in mix:
        assert " 0 deferred frees" not in recorded.said


def test_replay_is_exact_again_from_each_known_state(program, tmp_path):
    recorded = record(program, tmp_path, "", seed=3, operations=8000, mix="seopr")
    # Events 1000 to 3000 were not recorded; the snapshot that came next is known, as after a pause.
    resumed = next(found for found in recorded.snapshots if found[0] > 3000)
    first = recorded.snapshots[0]
    gone = slice(1000, resumed[0] - 1)
    events = np.delete(recorded.events, gone)
    place = resumed[0] - (resumed[0] - 1 - 1000)
    states = [_replay.KnownState(first[0], *first[2:]), _replay.KnownState(place, *resumed[2:])]
    found = _replay.replay(events, states, in_force([""]))
    whole = replayed(recorded, in_force([""]))
    assert (found.counters[: 1000 + 1] == whole.counters[: 1000 + 1]).all()
    assert (found.counters[place:] == whole.counters[resumed[0] :]).all()
    assert found.exact.tolist() == [(0, 1, 0, 0), (1, place, 1000, 1), (place, len(events) + 1, len(events) + 1, 1)]
    assert [_replay.CONTRADICTION_KINDS[kind] for kind in found.contradictions["kind"][:1]] == ["events are missing"]


@pytest.mark.parametrize(
    ("conf", "believed"),
    [
        ("", "max_split_size_mb:64"),
        ("max_split_size_mb:64", ""),
        ("roundup_power2_divisions:4", ""),
        ("", "roundup_power2_divisions:4"),
        ("", "expandable_segments:True"),
        ("expandable_segments:True", ""),
    ],
)
def test_wrong_settings_do_not_go_unnoticed(program, tmp_path, conf, believed):
    recorded = record(program, tmp_path, conf, seed=1, operations=4000, mix="se")
    found = replayed(recorded, in_force([believed]))
    exact = not (differences(recorded, found) or found.contradiction_count)
    # A replay tells expandable segments by their events, whatever the settings say.
    assert exact == (conf == "expandable_segments:True")


def test_pools_that_never_split_do_not_go_unnoticed(program, tmp_path):
    recorded = record(program, tmp_path, "", seed=1, operations=4000, mix="epn")
    assert differences(recorded, replayed(recorded, in_force([""]))) != []


def test_settings_that_change_in_the_middle_do_not_go_unnoticed(program, tmp_path):
    recorded = record(program, tmp_path, "", seed=1, operations=8000, mix="sel")
    found = replayed(recorded, in_force([""]))
    assert differences(recorded, found) != []


@pytest.mark.parametrize(
    "strings",
    [
        [""],
        *[[conf] for conf in SETTINGS[1:]],
        ["roundup_power2_divisions:[8:4,1:2]"],
        ["roundup_power2_divisions:[>:4]"],
        ["roundup_power2_divisions:[256:1,512:2,1024:4,>:8]"],
        ["roundup_power2_divisions:[]"],
        [" expandable_segments : True ,", "garbage_collection_threshold:0.25"],
        ["large_segment_size_mb:64,max_split_size_mb:100,roundup_power2_divisions:2", "expandable_segments:True"],
    ],
)
def test_settings_are_read_as_torch_reads_them(program, strings):
    lines = run_checked([str(program), "--settings", *strings]).splitlines()
    ours = in_force(strings)
    assert int(lines[0]) == ours.max_split_size % 2**64
    assert tuple(map(int, lines[1].split())) == ours.roundup_power2_divisions
    assert (int(lines[2]), bool(int(lines[3]))) == (ours.large_segment_size, ours.expandable_segments)
    assert float(lines[4]) == ours.garbage_collection_threshold


def fuzz(operations: int, seeds: int) -> None:
    """Prints what differs, and how much was compared."""
    probes = maps = 0
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        for conf, mix, seed in itertools.product(SETTINGS, MIXES, range(seeds)):
            mixed = mix_for(conf, mix)
            recorded = record(program, Path(directory), conf, seed=seed, operations=operations, mix=mixed)
            report(f"{conf or 'default'}, mix {mixed!r}, seed {seed}", recorded, in_force([conf]))
            probes, maps = probes + len(recorded.probes), maps + len(recorded.snapshots)
    runs = len(SETTINGS) * len(MIXES) * seeds
    print(f"{runs} runs of {operations} operations: counters compared {probes} times, address maps {maps} times")


def report(name: str, recorded: Recorded, settings: _replay.Settings) -> None:
    found = replayed(recorded, settings)
    wrong = differences(recorded, found)
    if wrong or found.contradiction_count:
        print(f"{name} ({recorded.said}): {len(wrong)} differences, {found.contradiction_count} contradictions")
        print(*wrong[:3], found.contradictions[:3], sep="\n  ")


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), int(sys.argv[2]))
