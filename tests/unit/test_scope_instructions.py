"""benchmarks/callgrind.py and scope_instructions.py: reading dumps, and what a scope runs."""

from collections import Counter

import pytest

from benchmarks import callgrind, scope_instructions

# A call's library is told where it is another one than the caller's, and for that call alone.
FILE = """\
desc: Trigger: dump recorded/100
events: Ir D1mr

ob=(1) /usr/lib/libpython3.12.so.1.0
fn=(1) eval
10 100 7
cob=(2) /somewhere/wanhook/_C.cpython-312-x86_64-linux-gnu.so
cfn=(2) trace_enter(_object*, _object*)
calls=3 50
+1 900

ob=(2)
fn=(2)
50 70
cob=(1)
cfn=(3) PyContextVar_Set
calls=1 1
* 300 2
cfn=(4) begin_scope
calls=1 1
* 40
fn=(4)
60 40
ob=(1)
fn=(3)
1 300 2
"""


def test_entries_tell_callers_from_the_called():
    found = [
        (entry.library.rpartition("/")[2][:5], entry.function[:5], entry.callee and entry.callee[:7], entry.cost("Ir"))
        for entry in callgrind.entries(FILE.splitlines())
    ]
    assert found == [
        ("libpy", "eval", None, 100),
        ("libpy", "eval", "trace_e", 900),
        ("_C.cp", "trace", None, 70),
        ("_C.cp", "trace", "PyConte", 300),
        ("_C.cp", "trace", "begin_s", 40),
        ("_C.cp", "begin", None, 40),
        ("libpy", "PyCon", None, 300),
    ]


def test_the_library_of_a_call_is_the_callers_unless_told():
    calls = [entry for entry in callgrind.entries(FILE.splitlines()) if entry.callee]
    assert [entry.callee_library == entry.library for entry in calls] == [False, False, True]


def test_what_a_line_leaves_out_is_zero():
    entries = list(callgrind.entries(FILE.splitlines()))
    assert [entry.cost("D1mr") for entry in entries] == [7, 0, 0, 2, 0, 0, 2]
    assert entries[0].cost("ILmr") == 0


def test_calls_are_counted_where_they_leave_the_extension():
    by_library, called = scope_instructions.counted(FILE.splitlines())
    assert by_library == {"libpython3": 400, "_C": 110}
    assert called == {"PyContextVar_Set": 300}


def test_the_table_is_of_one_scope():
    """Rows of few instructions are left out, and are in the sum."""
    short, long = scope_instructions.LENGTHS
    counts = {}
    for number, kind in enumerate(scope_instructions.KINDS):
        for length in (short, long):
            libraries = Counter({"_C": 5_000 + (100 + number) * length, "libc": 3 * length})
            counts[f"{kind}/{length}"] = (libraries, Counter({"PyContextVar_Set": 50 * length, "seldom": 2 * length}))
    assert scope_instructions.table(counts) == [
        "contextmanager: 103 instructions a scope",
        "  in _C                                               100",
        "gate closed: 104 instructions a scope",
        "  in _C                                               101",
        "recorded: 105 instructions a scope",
        "  in _C                                               102",
        "  called: PyContextVar_Set                             50",
    ]


def test_without_made_up_gpus_it_says_how_to_run_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["scope_instructions"])
    monkeypatch.delenv("MADE_GPU_SHARED", raising=False)
    with pytest.raises(SystemExit, match="made-up GPUs"):
        scope_instructions.main()
