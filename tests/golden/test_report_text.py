"""The report's text and the shape of its JSON, to the letter.

WANHOOK_UPDATE_GOLDEN=1 writes what the code says now; read the difference before you commit it.
"""

import os
from pathlib import Path

import orjson
import pytest

import made_load
import made_memory
import made_wan
from made_trace import TraceBuilder
from wanhook.report.as_json import as_json
from wanhook.report.build import SCHEMA, build
from wanhook.report.terminal import render
from wanhook.tracefile.model import load

HERE = Path(__file__).parent


def save_nothing(directory):
    """A recording that was started and stopped."""
    TraceBuilder().save(directory / "rank00000-1-0.wanhook")
    return directory


RUNS = {
    "two_gpus": made_wan.save_two_gpus,
    "two_cpus": made_wan.save_two_cpus,
    "crashed": made_wan.save_crashed,
    "nothing": save_nothing,
    "kernels": made_wan.save_kernels,
    "sharded": made_wan.save_sharded,
    "memory": made_memory.save_memory,
    "loading": made_load.save_load,
    "one_process": made_wan.save_one_process,
}


@pytest.fixture
def report_of(tmp_path, monkeypatch):
    """A function: name of a made-up run -> its report, with the same path wherever the tests run."""

    def report(name, rank=None):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        RUNS[name](directory)
        return build(load(Path(name), machine=made_wan.DeadProcesses()), rank)

    return report


def assert_golden(name, text):
    file = HERE / name
    if os.environ.get("WANHOOK_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", RUNS.keys() - {"memory"})
def test_text_of_the_report(report_of, name):
    assert_golden(f"report_{name}.txt", render(report_of(name)))


def test_text_of_one_rank(report_of):
    assert_golden("report_rank_1.txt", render(report_of("two_gpus", rank=1)))


def test_text_of_the_memory_section_in_full(report_of):
    sections = ["recording", "memory", "findings"]
    assert_golden("report_memory.txt", render(report_of("memory"), sections=sections))


# Objects whose keys are data: ranks, names of facts, reasons.
MAPS = {"occurrences", "calls_by_rank", "facts", "untimed_why", "figures", "classes", "waited_for", "by_path"}


def shape(value, path="report", key=""):
    """path -> set of JSON types found there, all elements of a list or a map together."""
    found = {path: {type(value).__name__}}
    inside = []
    if isinstance(value, dict):
        inside = [(f"{path}{'.*' if key in MAPS else '.' + name}", part, name) for name, part in value.items()]
    elif isinstance(value, list):
        inside = [(f"{path}[]", part, "") for part in value]
    for where, part, name in inside:
        for at, types in shape(part, where, name).items():
            found.setdefault(at, set()).update(types)
    return found


def test_shape_of_the_json(report_of):
    """A field that goes away or changes its type raises the number in SCHEMA; a new one only updates this file."""
    found = {}
    for name in RUNS:
        report = orjson.loads(as_json(report_of(name)))
        assert report["schema"] == SCHEMA
        for path, types in shape(report).items():
            found.setdefault(path, set()).update(types)
    lines = [f"{path}: {' | '.join(sorted(types))}" for path, types in sorted(found.items())]
    assert_golden("report_json_shape.txt", "\n".join([SCHEMA, *lines, ""]))
