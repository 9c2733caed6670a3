"""Traces grouped to a run, and as data frames."""

from __future__ import annotations

import builtins
import os

import pytest

from made_trace import TraceBuilder
from wanhook.tracefile.format import (
    CollectiveFlags,
    TraceFormatError,
)
from wanhook.tracefile.model import Run, Trace, load

START = 1_000_000_000_000


@pytest.fixture
def read(tmp_path):
    def read(builder: TraceBuilder) -> Trace:
        return Trace(builder.save(tmp_path / "rank00000-1-0.wanhook"))

    return read


# Runs.


def save_rank(
    directory, rank: int, run: str = "run-a", *, number: int = 0, started: int = 0, **options
) -> TraceBuilder:
    realtime = 1_700_000_000_000_000_000 + started
    builder = TraceBuilder(rank, 2, run_id=run, start_realtime=realtime, life=number, **options)
    builder.save(directory / f"rank{rank or 0:05d}-{run}-{number}.wanhook")
    return builder


def test_a_run_is_its_ranks_in_order(tmp_path):
    save_rank(tmp_path, 1)
    save_rank(tmp_path, 0)
    run = load(tmp_path)
    assert isinstance(run, Run)
    assert [trace.rank for trace in run] == [0, 1]
    assert (run.run_id, run.world_size, run.missing_ranks, run.problems, len(run)) == ("run-a", 2, [], [], 2)
    assert run.rank(1).path.name == "rank00001-run-a-0.wanhook"
    assert run.path == tmp_path


def test_several_recordings_of_a_rank(tmp_path):
    save_rank(tmp_path, 0, number=1, started=50)
    save_rank(tmp_path, 0, number=0, started=10)
    save_rank(tmp_path, 1)
    run = load(str(tmp_path))
    assert [(trace.rank, trace.header["life"]) for trace in run] == [(0, 0), (0, 1), (1, 0)]
    assert run.rank(0).header["life"] == 1


def test_a_missing_rank_is_named(tmp_path):
    save_rank(tmp_path, 1)
    run = load(tmp_path)
    assert run.missing_ranks == [0]
    assert run.problems == ["rank 0 of 2 left no readable file"]
    with pytest.raises(KeyError, match="rank 0 has no trace"):
        run.rank(0)
    assert load(run.traces[0].path).problems == []


def test_the_newest_of_several_runs_is_taken(tmp_path):
    save_rank(tmp_path, 0, "old", started=5)
    save_rank(tmp_path, 1, "old", started=6)
    save_rank(tmp_path, 0, "new", started=9)
    save_rank(tmp_path, 1, "new", started=1)
    run = load(tmp_path)
    assert (run.run_id, [trace.run_id for trace in run]) == ("new", ["new", "new"])
    assert run.problems == [
        "the directory also holds 2 files of another run, old, not loaded: rank00000-old-0.wanhook, "
        "rank00001-old-0.wanhook. Move them to another one to report on them"
    ]


def test_a_file_that_does_not_know_its_run_joins(tmp_path):
    save_rank(tmp_path, 0)
    save_rank(tmp_path, None, "", started=99)
    run = load(tmp_path)
    assert (run.run_id, [trace.rank for trace in run]) == ("run-a", [0, None])
    assert "does not say which run" in run.problems[0]


def test_unreadable_files_are_problems(tmp_path):
    save_rank(tmp_path, 0)
    save_rank(tmp_path, 1)
    (tmp_path / "a.wanhook").write_bytes(b"text")
    (tmp_path / "b.wanhook").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "c.wanhook")
    (tmp_path / "notes.txt").write_text("not asked for")
    run = load(tmp_path)
    assert len(run) == 2
    assert run.problems == [
        "a.wanhook cannot be read: the file ends inside its header: it has 4 bytes (at byte 4)",
        "b.wanhook cannot be read: this is not a regular file (at byte 0)",
        "c.wanhook cannot be read: No such file or directory",
    ]


def test_nothing_to_read_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give a run directory"):
        load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="was anything recorded there"):
        load(tmp_path)
    (tmp_path / "run-7").mkdir()
    save_rank(tmp_path / "run-7", 0)
    with pytest.raises(FileNotFoundError, match="run directories: run-7"):
        load(tmp_path)
    (tmp_path / "x.wanhook").write_bytes(b"")
    with pytest.raises(TraceFormatError, match=r"x\.wanhook"):
        load(tmp_path)


def test_an_absurd_world_size_names_no_ranks(tmp_path):
    save_rank(tmp_path, 0, meta={"rank": {"world_size": 1 << 60}})
    run = load(tmp_path)
    assert (run.missing_ranks, run.problems) == ([], [])


# pandas.


def test_data_frames_have_names(tmp_path):
    pytest.importorskip("pandas")
    builder = TraceBuilder(0, 1)
    group = builder.group("0", (0,))
    scope = builder.scope("request", 0, 10_000, level="block")
    builder.collective("allreduce_", 10, role="out", group=group, scope=scope, flags=CollectiveFlags.P2P, coalesced=5)
    builder.collective("allreduce_", 20, dtype=255, group=0)
    builder.alloc(1, 2, 30, scope=scope)
    builder.sample(40, edge="stop", scope=0)
    builder.save(tmp_path / "a.wanhook")
    save_rank(tmp_path, None, "run-a", number=1)
    frames = load(tmp_path).to_pandas()
    calls = frames["collectives"]
    assert calls["op"].tolist() == ["allreduce_", "allreduce_"]
    assert calls["role"].tolist() == ["out", ""]
    assert calls["group"].tolist() == ["0", ""]
    assert calls["path"].astype(object).where(calls["path"].notna(), None).tolist() == ["request", None]
    assert calls["dtype"].isna().tolist() == [False, True]
    assert calls["dtype"].tolist()[0] == "bfloat16"
    assert calls["is_p2p"].tolist() == [True, False]
    assert calls["coalesced"].tolist() == [5, 0]
    assert frames["scopes"][["name", "level", "type", "path"]].values.tolist() == [
        ["request", "block", "trace", "request"]
    ]
    assert frames["allocator_events"]["action"].tolist() == ["alloc"]
    assert frames["allocator_events"]["path"].tolist() == ["request"]
    assert frames["memory_samples"]["edge"].tolist() == ["stop"]
    assert frames["scopes"]["rank"].tolist() == [0]
    assert len(load(tmp_path).traces[0].to_pandas()["scopes"]) == 1


def test_without_pandas_the_error_names_the_remedy(read, monkeypatch):
    trace = read(TraceBuilder())
    plain = builtins.__import__

    def no_pandas(name, *args, **options):
        if name == "pandas":
            raise ImportError("none here")
        return plain(name, *args, **options)

    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    monkeypatch.setattr(builtins, "__import__", no_pandas)
    with pytest.raises(ImportError, match="pip install pandas"):
        trace.to_pandas()
