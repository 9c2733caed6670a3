"""benchmarks/wan22/instructions.py: reading what callgrind counted, and what a step has more than another."""

import pytest

from benchmarks.wan22 import instructions

# Names are told once and then by number; a line behind `calls=` is what the function called took.
FILE = """\
version: 1
desc: Trigger: dump wrappers/4
positions: line
events: Ir

ob=(1) /usr/lib/libpython3.11.so.1.0
fn=(1) eval
10 100
+2 20
cob=(2) /somewhere/wanhook/_C.cpython-311-x86_64-linux-gnu.so
cfn=(2) begin
calls=3 50
+1 999
* 5

ob=(2)
fn=(2)
50 7
cob=(3) /somewhere/torch/lib/libtorch_python.so
cfn=(3) launch
calls=1 1
-1 500
ob=(3)
fn=(3)
1 11
ob=(4) /lib/x86_64-linux-gnu/libc.so.6
fn=(4) memcpy
1 13

totals: 156
"""


def test_each_library_has_its_own_instructions_and_not_those_it_called():
    counted = instructions.counted(FILE.splitlines())
    assert counted == {"instructions": {"interpreter": 125, "wanhook": 7, "torch": 11, "rest": 13}}


def test_misses_are_counted_where_caches_were_played():
    """Zeros at the end of a line are left out."""
    lines = FILE.replace("events: Ir", "events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw").splitlines()
    lines[lines.index("10 100")] = "10 100 9 9 1 20 300 4000 50000 600000"
    lines[lines.index("* 5")] = "* 5 9 9 2"
    interpreter = {what: of["interpreter"] for what, of in instructions.counted(lines).items()}
    assert interpreter == {
        "instructions": 125, "L1 misses, instructions": 3, "L1 misses, data": 320, "L2 misses": 654000,
    }  # fmt: skip


def test_dumps_are_known_by_their_names(tmp_path):
    (tmp_path / "counts.2-01").write_text(FILE)
    (tmp_path / "counts.1-01").write_text(FILE.replace("wrappers/4", "between"))
    (tmp_path / "counts.2-02").write_text(FILE)  # another thread's
    (tmp_path / "counts").write_text("")
    counts = instructions.read_counts(tmp_path)
    assert {what: list(of) for what, of in counts.items()} == {"instructions": ["wrappers/4"]}


def test_a_step_is_the_difference_of_two_lengths():
    short, long = instructions.LENGTHS
    counts = {f"bare/{steps}": {"torch": 1_000_000 + 2_000 * steps, "interpreter": 0, "wanhook": 0, "rest": 5}
              for steps in (short, long)}  # fmt: skip
    assert instructions.a_step(counts, "bare") == {"wanhook": 0, "torch": 2, "interpreter": 0, "rest": 0}


def test_the_table_has_shares_of_the_bare_step():
    short, long = instructions.LENGTHS
    per_step = {"bare": 100, "wrappers": 101, "recorded": 103, "bare again": 100}
    counts = {f"{kind}/{steps}": {"torch": 1e3 * each * steps, "interpreter": 0, "wanhook": 0, "rest": 0}
              for kind, each in per_step.items() for steps in (short, long)}  # fmt: skip
    shares = [line.split()[-1] for line in instructions.table("instructions", counts)[1:5]]
    assert shares == ["100.00%", "1.00%", "2.00%", "0.00%"]


def test_without_made_up_gpus_it_says_how_to_run_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["instructions"])
    monkeypatch.delenv("MADE_GPU_SHARED", raising=False)
    with pytest.raises(SystemExit, match="made-up GPUs"):
        instructions.main()
