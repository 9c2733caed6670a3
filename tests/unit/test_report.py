import csv
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import orjson
import pytest
from rich.cells import cell_len

import made_wan
from made_trace import TraceBuilder
from wanhook.report.__main__ import main, newest_run, wants_colour
from wanhook.report.as_json import as_json
from wanhook.report.build import SCHEMA, build
from wanhook.report.terminal import SECTIONS, render
from wanhook.report.text import gb_per_s, mib, ms, on_ranks, percent, plain, rank_cell, rank_list, ranks_named, span
from wanhook.tracefile.model import load

ROOT = Path(__file__).resolve().parents[2]
NASTY = "[bold red]x[/] \x1b[31m\x07\r\n\t\u202egnp.exe\u2066 wide 漢字 " + "long" * 40

HEADINGS = {
    "recording": ["RECORDING"],
    "loading": ["LOADING"],
    "scopes": ["SCOPES"],
    "collectives": ["COLLECTIVES", "THEIR KERNELS"],
    "exposure": ["EXPOSED COMMUNICATION"],
    "memory": ["MEMORY"],
    "notes": ["NOT RECORDED"],
    "findings": ["WHAT TO LOOK AT"],
}


@pytest.fixture
def two_gpus(tmp_path):
    return made_wan.save_two_gpus(tmp_path)


def nasty_run(directory, ranks=16):
    for rank in range(ranks):
        builder = made_wan.gpu_rank(rank, ranks, slower=1 + rank / 100)
        group = builder.group(NASTY[:30], (rank,), description=f"{NASTY} {rank}")
        outer = 0
        for depth in range(9):
            outer = builder.scope(f"{NASTY} {depth}", depth, 10**15 - depth, gpu=(depth, 10**15), parent=outer)
        builder.collective(NASTY[:20], 5, gpu=(6, 10**14), role=NASTY[:40], group=group, scope=outer, bytes_in=10**15)
        builder.collective("alltoall_", 5, scope=outer, role=NASTY)
        builder.alloc(0x7F1000000000, 10**15, 10**15, scope=outer)
        builder.meta({"notes": [NASTY], "environment": {NASTY: f"{rank} {NASTY}"}, "run": {"name": NASTY}})
        builder.save(directory / f"rank{rank:05d}-1-0.wanhook")
    return build(load(directory))


def test_names_cannot_act_on_a_terminal(tmp_path):
    text = render(nasty_run(tmp_path, ranks=2))
    bad = {char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert bad == set()
    assert "[bold red]x[/] \\x1b[31m\\x07\\x0d\\x0a\\x09\\u202egnp.exe" in text


@pytest.mark.parametrize("show_all", [False, True])
def test_no_line_is_wider_than_100_columns(tmp_path, show_all):
    report = nasty_run(tmp_path)
    text = render(report, show_all=show_all) + render(report, show_all=show_all, sections=SECTIONS)
    assert [line for line in text.splitlines() if cell_len(line) > 100] == []
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


def test_colour_is_there_when_asked_for_and_only_then(two_gpus):
    report = build(load(two_gpus))
    assert "\x1b[" in render(report, colour=True)
    assert "\x1b" not in render(report)


def test_colour_changes_nothing_but_colour(two_gpus):
    report = build(load(two_gpus))
    bare = re.sub(r"\x1b\[[0-9;]*m", "", render(report, colour=True))
    assert [line.rstrip() for line in bare.splitlines()] == render(report).splitlines()


def test_many_ranks_and_paths_stay_readable(tmp_path):
    for rank in range(20):
        builder = made_wan.gpu_rank(rank, 20)
        for number in range(100):
            builder.scope(f"layer {number:02}", 0, 10, gpu=(0, 1000 + number), level="op")
        builder.save(tmp_path / f"{rank}.wanhook")
    report = build(load(tmp_path))
    short, whole = render(report), render(report, show_all=True)
    assert "paths with less time are left out; --all shows them." in short
    assert "4 ranks with smaller peaks are left out; --all shows them." in short
    assert len(short.splitlines()) < 160
    assert "layer 99" in short
    assert "layer 00" not in short
    assert "layer 00" in whole
    assert "left out" not in whole


def test_two_runs_of_the_report_are_alike(two_gpus):
    assert render(build(load(two_gpus))) == render(build(load(two_gpus)))


# The command ---------------------------------------------------------------------------------------------------------


def test_command_prints_the_report(two_gpus, capsys):
    assert main([str(two_gpus)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("wanhook: run run-a (made)")
    assert "denoise_step" in out
    assert "\x1b" not in out


def test_command_for_one_rank(two_gpus, capsys):
    assert main([str(two_gpus), "--rank", "1"]) == 0
    out = capsys.readouterr().out
    assert "rank 1 alone" in out
    assert "vae_decode" not in out


def test_json_to_stdout_is_nothing_but_json(two_gpus, capsysbinary):
    assert main([str(two_gpus), "--json", "-"]) == 0
    report = orjson.loads(capsysbinary.readouterr().out)
    assert report["schema"] == SCHEMA
    assert report["selected_rank"] is None
    assert [row["path"] for row in report["scopes"]][:2] == ["request", "request/text_encode"]


def test_json_to_a_file_comes_with_the_text(two_gpus, tmp_path, capsys):
    assert main([str(two_gpus), "--json", str(tmp_path / "report.json"), "--rank", "0"]) == 0
    assert orjson.loads((tmp_path / "report.json").read_bytes())["selected_rank"] == 0
    assert capsys.readouterr().out.startswith("wanhook: run")


@pytest.mark.parametrize("name", SECTIONS)
def test_section_alone(two_gpus, capsys, name):
    assert main([str(two_gpus), "--section", name]) == 0
    headings = re.findall(r"^([A-Z]{2}[A-Z ]+?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    assert headings == HEADINGS[name]


def test_a_section_with_nothing_in_it_says_so_if_asked_for(tmp_path):
    report = build(load(TraceBuilder().save(tmp_path / "a.wanhook")))
    text = render(report, sections=SECTIONS)
    titles = ["RECORDING", "LOADING", "SCOPES", "COLLECTIVES", "EXPOSED COMMUNICATION", "MEMORY", "NOT RECORDED"]
    titles += ["WHAT TO LOOK AT"]
    assert [line.partition("  ")[0] for line in text.splitlines() if line[:1].isupper()] == titles
    assert "WHAT TO LOOK AT  nothing stands out\n" in text
    assert "WHAT TO LOOK AT" not in render(report)


def test_owners_of_nothing_are_no_table(tmp_path):
    builder = TraceBuilder(device="cpu")
    builder.scope("request", 0, 100)
    builder.alloc(0x1000, 0, at=10)
    text = render(build(load(builder.save(tmp_path / "a.wanhook"))))
    assert "Peak of allocated bytes: 0.0 MiB" in text
    assert "allocated in" not in text


def test_sections_come_in_the_order_asked_for(two_gpus, capsys):
    assert main([str(two_gpus), "--section", "memory", "--section", "scopes"]) == 0
    out = capsys.readouterr().out
    assert 0 < out.index("\nMEMORY") < out.index("\nSCOPES")
    assert "COLLECTIVES" not in out


def test_memory_section_holds_more_than_the_first_screen(two_gpus):
    report = build(load(two_gpus))
    assert "Fragmentation on rank 0" in render(report, sections=["memory"])
    assert "Fragmentation on rank 0" not in render(report)


def test_unknown_section_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--section", "memroy"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert [name for name in ("memroy", *SECTIONS) if name not in said] == []


def test_memory_over_time_as_csv(two_gpus, tmp_path, capsys):
    assert main([str(two_gpus), "--csv", str(tmp_path / "csv")]) == 0
    files = sorted((tmp_path / "csv").iterdir())
    assert [file.name for file in files] == ["memory_rank00000_device0.csv", "memory_rank00001_device1.csv"]
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["time_ns", "until_ns", "requested_min", "requested_max"]
    assert max(int(row["reserved_max"]) for row in rows) == 168 * made_wan.MIB
    assert {int(row["allocated_max"]) for row in rows} == {100 * made_wan.MIB, 140 * made_wan.MIB}
    assert [int(row["time_ns"]) for row in rows] == sorted(int(row["time_ns"]) for row in rows)
    assert capsys.readouterr().out.startswith("wanhook: run")


def test_csv_of_one_device_is_one_file_and_the_cpu_has_no_segments(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    made_wan.save_two_cpus(run)
    assert main([str(run), "--rank", "1", "--csv", str(tmp_path / "rank.csv")]) == 0
    header, first, *_ = (tmp_path / "rank.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert (cells["allocated_max"], cells["reserved_max"]) == ("0", "")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "does not exist"),
        (["empty"], "holds no"),
        (["no_trace.wanhook"], "is not a wanhook trace"),
        ([], "record one with wanhook.trace()"),
        (["run", "--rank", "7"], "there are: 0-1\n"),
        (["one", "--rank", "0"], "its recordings have no rank: leave out --rank"),
        (["run", "--json", "absent/report.json"], "give another file to --json"),
        (["run", "--csv", "two.csv"], "give a directory"),
        (["run", "--csv", "no_trace.wanhook/csv"], "give another place to --csv"),
    ],
)
def test_what_cannot_be_reported_on_ends_with_2_and_a_remedy(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_trace.wanhook").write_bytes(b"PNG" * 1000)
    made_wan.save_two_gpus(tmp_path / "run")
    (tmp_path / "one").mkdir()
    made_wan.save_one_process(tmp_path / "one")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_usage_error_ends_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--rank", "one"])
    assert ended.value.code == 2
    capsys.readouterr()


def test_newest_run_is_taken_when_none_is_named(tmp_path, monkeypatch, capsys):
    for name, age in (("a", 100), ("b", 300), ("c", 200)):
        (tmp_path / "wanhook-runs" / name).mkdir(parents=True)
        file = TraceBuilder(run_id=name).save(tmp_path / "wanhook-runs" / name / "x.wanhook")
        os.utime(file, (age, age))
    monkeypatch.chdir(tmp_path)
    assert newest_run(Path("wanhook-runs")) == Path("wanhook-runs/b")
    assert main([]) == 0
    assert "run b" in capsys.readouterr().out


def test_reader_that_leaves_early_is_no_error(two_gpus):
    command = f"{sys.executable} -m wanhook.report {two_gpus} | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_stdout_leaves_the_files(two_gpus, tmp_path):
    command = f"{sys.executable} -m wanhook.report {two_gpus} --json {tmp_path}/report.json >&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "report.json").read_text())


def test_file_name_that_is_no_text(two_gpus, capsysbinary):
    directory = two_gpus / os.fsdecode(b"run\xff")
    directory.mkdir()
    (directory / os.fsdecode(b"\xfe.wanhook")).write_bytes(b"")
    TraceBuilder().save(directory / os.fsdecode(b"\xfd.wanhook"))
    assert main([str(directory)]) == 0
    assert main([str(directory), "--json", "-"]) == 0
    assert rb"run\udcff" in capsysbinary.readouterr().out


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_give_a_report_or_a_format_error(tmp_path, seed):
    chance = random.Random(seed)
    whole = made_wan.save_crashed(tmp_path) / "rank00001-1-0.wanhook"
    raw = bytearray(whole.read_bytes())
    for _ in range(chance.choice([1, 10, 100, 1000])):
        raw[chance.randrange(96, len(raw))] = chance.randrange(256)
    whole.write_bytes(raw)
    report = build(load(tmp_path, machine=made_wan.DeadProcesses()))
    assert render(report)
    assert as_json(report)


def test_terminal_that_knows_ascii_only(two_gpus):
    builder = TraceBuilder()
    builder.scope("漢字", 0, 10, gpu=(0, 10))
    file = builder.save(two_gpus / "z.wanhook")
    command = [sys.executable, "-m", "wanhook.report", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env={"PYTHONIOENCODING": "ascii", "PATH": ""})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u6f22\\u5b57" in done.stdout


def test_reading_half_loads_neither_torch_nor_the_recorder():
    code = (
        "import sys, wanhook.report.__main__\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] == 'torch' or name in "
        "('wanhook._C', 'wanhook.recording', 'wanhook.attach')]\n"
        "sys.exit(', '.join(loaded) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class Stream:
    def __init__(self, tty):
        self.tty = tty

    def isatty(self):
        return self.tty


@pytest.mark.parametrize(
    ("tty", "environ", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(tty, environ, colour):
    assert wants_colour(Stream(tty), environ) is colour


# Figures as text -----------------------------------------------------------------------------------------------------


def test_figures():
    assert [ms(value) for value in (None, 0, 84_000, 9_999_000, 12_345_678, 6_310_200_000)] == [
        "-", "0.000", "0.084", "9.999", "12.35", "6310.2",
    ]  # fmt: skip
    assert [mib(value) for value in (None, 0, 4096, 1 << 20, 61_200 << 20)] == ["-", "0.0", "0.004", "1.0", "61200.0"]
    assert [gb_per_s(value) for value in (None, 4.1e9, 123.45e9)] == ["-", "4.10", "123.5"]
    assert [percent(0.1234), percent(0.00031, 2), percent(None)] == ["12.3%", "0.03%", "-"]
    assert [span([3, 3]), span([5, 4])] == ["3", "4-5"]
    assert [rank_list([3, 0, 1, 2, 7]), rank_list([-1, 0])] == ["0-3, 7", "none, 0"]
    assert [ranks_named([2]), ranks_named([1, 0]), ranks_named([-1])] == ["rank 2", "ranks 0-1", "the process"]
    assert [on_ranks([2]), on_ranks([1, 0]), on_ranks([-1])] == ["on rank 2", "on ranks 0-1", "in the process"]
    cells = [rank_cell(3), rank_cell(3, 0), rank_cell(3, -1), rank_cell(-1), rank_cell(-1, -1), rank_cell(-1, 1)]
    assert cells == ["3", "3, device 0", "3", "-", "-", "-, device 1"]


def test_plain_leaves_letters_of_every_script_alone():
    assert plain("denoise_step/漢字 é [x]") == "denoise_step/漢字 é [x]"
    assert plain("a\u200bb\U000e0001\ue000") == "a\\u200bb\\U000e0001\\ue000"
