from made_trace import TraceBuilder
from wanhook.analysis.run_facts import Fact, run_facts
from wanhook.tracefile.model import load


def facts(tmp_path, *builders):
    for number, builder in enumerate(builders):
        builder.save(tmp_path / f"{number}.wanhook")
    return run_facts(load(tmp_path))


def test_what_ran_where(tmp_path):
    builders = [TraceBuilder(rank=rank, world_size=3, start_realtime=5_000 - rank) for rank in (0, 2)]
    builders[1].group("0", (0, 1, 2), rank=2, description="default_pg")
    builders[1].meta({"notes": ["Graph replays are not counted."]})
    found = facts(tmp_path, *builders)
    assert (found.run_id, found.name, found.world_size) == ("run-a", "made", 3)
    assert (found.ranks, found.missing_ranks) == ([0, 2], [1])
    assert found.started_ns == 4_998
    assert found.hosts == [Fact("made-host", [0, 2])]
    assert found.facts["versions.torch"] == [Fact("2.11.0", [0, 2])]
    assert [group.label for group in found.groups] == ["default_pg"]
    assert found.notes == [Fact("Graph replays are not counted.", [2])]
    assert found.problems == ["rank 1 of 3 left no readable file"]


def test_differences_between_ranks_are_named_and_what_is_a_ranks_own_is_not(tmp_path):
    builders = [TraceBuilder(rank=rank, world_size=3, device_index=rank) for rank in range(3)]
    builders[1].meta({"versions": {"torch": "2.13.0"}, "device": {"uuid": "GPU-1"}})
    builders[2].meta({"environment": {"NCCL_DEBUG": "INFO"}})
    found = facts(tmp_path, *builders)
    assert found.differences == ["versions.torch", "environment.NCCL_DEBUG"]
    assert found.facts["versions.torch"] == [Fact("2.11.0", [0, 2]), Fact("2.13.0", [1])]
    assert found.facts["environment.NCCL_DEBUG"] == [Fact("not set", [0, 1]), Fact("INFO", [2])]


def test_meta_of_any_shape_is_borne(tmp_path):
    builder = TraceBuilder(rank=None, world_size=None)
    builder.meta({"notes": 5, "versions": "x", "environment": [1], "run": 7, "process": None})
    found = facts(tmp_path, builder)
    assert (found.ranks, found.missing_ranks, found.notes, found.hosts) == ([-1], [], [], [Fact("not set", [-1])])
