"""What `make memcheck` makes of what compute-sanitizer printed: what counts, whose it is, what was overlooked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu.memcheck import (
    CLEAN,
    ROOT,
    UNCHECKED,
    WRONG,
    Part,
    dealt,
    findings,
    judge,
    parts_of,
    pytest_arguments,
    run,
    take_number,
    verdict,
    worst,
)

BANNER = "========= COMPUTE-SANITIZER\n"
DRIVER_FRAME = "=========         Host Frame:  [0x37ac12] in /usr/lib/libcuda.so.1\n"
RUNTIME_FRAME = "=========         Host Frame: cudaEventRecord [0x5a01] in /site/nvidia/cu13/lib/libcudart.so.13\n"
OUR_FRAME = "=========         Host Frame: wanhook::SpanTimer::end in span_timer_cuda.cpp:120 [0x3f] in {}\n"
OUR_LIBRARY = "/site/wanhook/_C.cpython-312-x86_64-linux-gnu.so"
TORCH_FRAME = "=========         Host Frame: c10::cuda::SetDevice(signed char) [0x46c30] in /torch/lib/libc10_cuda.so\n"
ACCESS = (
    "========= Invalid __global__ write of size 1 bytes\n"
    "=========     at void fill_kernel<unsigned char>(int)+0x100\n"
    "=========     by thread (0,0,0) in block (4,0,0)\n"
    "=========     Saved host backtrace up to driver entry point at kernel launch time\n"
    f"{DRIVER_FRAME}{TORCH_FRAME}"
)


def failed_call(*frames: str, error: str = "cudaErrorInvalidValue (error 1)", call: str = "cudaEventRecord") -> str:
    return (
        f'========= Program hit {error} due to "invalid argument" on CUDA API call to {call}.\n'
        "=========     Saved host backtrace up to driver entry point at error\n"
        f"{''.join(frames)}========= \n"
    )


def output(*parts: str, counted: int) -> str:
    return BANNER + "".join(parts) + f"========= ERROR SUMMARY: {counted} error{'s' * (counted != 1)}\n"


OURS = failed_call(DRIVER_FRAME, RUNTIME_FRAME, OUR_FRAME.format(OUR_LIBRARY))
TORCHS = failed_call(DRIVER_FRAME, TORCH_FRAME, OUR_FRAME.format(OUR_LIBRARY))


def test_no_errors_are_clean():
    assert verdict(output(counted=0), 0)[0] == CLEAN


def test_a_bad_access_counts_whoever_launched_the_kernel():
    code, lines = verdict(output(ACCESS, counted=1), 0)
    assert code == WRONG
    assert "by thread (0,0,0) in block (4,0,0)" in "\n".join(lines)


def test_a_failed_call_belongs_to_whoever_made_it():
    """Calls of torch that were made on behalf of a hook of ours are torch's."""
    ours, torchs = findings(output(OURS, TORCHS, counted=2))
    assert (ours.call, ours.library, ours.counts) == ("cudaEventRecord", OUR_LIBRARY, True)
    assert (torchs.library, torchs.counts) == ("/torch/lib/libc10_cuda.so", False)
    assert verdict(output(TORCHS, TORCHS, counted=2), 0)[0] == CLEAN
    assert verdict(output(TORCHS, OURS, counted=2), 0)[0] == WRONG


def test_a_library_may_stand_in_a_line_of_its_own():
    """So compute-sanitizer 2025.3.1 has it, behind the place in the source where that is known."""
    where = "=========         Host Frame: wanhook::SpanTimer::resolve() in /src/span_timer_cuda.cpp:139 [0x49499]\n"
    within = f"=========                        in {OUR_LIBRARY}\n"
    cuda = "=========         Host Frame:  [0x37ac12]\n=========                        in /usr/lib/libcuda.so.1\n"
    (found,) = findings(output(failed_call(cuda, where, within), counted=1))
    assert (found.library, found.counts) == (OUR_LIBRARY, True)


def test_a_failed_call_of_nobody_counts():
    """It could be ours: what cannot be told must not pass for clean."""
    python = "=========         Host Frame: test_streams in /src/tests/test_streams.py:54\n"
    for frames in ((), (python,), (DRIVER_FRAME, RUNTIME_FRAME)):
        (found,) = findings(output(failed_call(*frames), counted=1))
        assert (found.library, found.counts) == (None, True)


def test_torchs_own_module_of_that_name_is_not_ours():
    frame = OUR_FRAME.format("/site/torch/_C.cpython-312-x86_64-linux-gnu.so")
    assert verdict(output(failed_call(frame), counted=1), 0)[0] == CLEAN


def test_work_that_is_not_done_is_no_error():
    asked = failed_call(OUR_FRAME.format(OUR_LIBRARY), error="cudaErrorNotReady (error 600)", call="cudaEventQuery")
    assert verdict(output(asked, counted=1), 0)[0] == CLEAN


def test_what_was_not_understood_is_not_clean():
    code, lines = verdict(output(TORCHS, counted=3), 0)
    assert code == WRONG
    assert any("2 findings of the tool were not understood" in line for line in lines)


def test_failed_tests_are_not_clean():
    assert verdict(output(counted=0), 1)[0] == WRONG
    assert verdict(output("========= Target application returned an error\n", counted=0), 1)[0] == WRONG


def test_a_tool_that_did_not_work_checked_nothing():
    assert verdict("========= Device not supported\n" + output(counted=0), 0)[0] == UNCHECKED
    assert verdict("", 0)[0] == UNCHECKED


def test_tests_are_dealt_out_and_none_is_lost():
    assert dealt(list("abcdefg"), 3) == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert dealt(list("ab"), 8) == [["a"], ["b"]]
    assert dealt([], 8) == []


def test_tests_that_need_not_pass_stay_with_their_files():
    parts = parts_of(["a::1", "a::2", "a::3"], ["b::1", "a::4", "b::2"], 2)
    assert [part.tests for part in parts] == [["a::1", "a::3"], ["a::2"], ["b::1", "b::2"], ["a::4"]]
    assert [part.judged for part in parts] == [True, True, False, False]
    assert parts_of([], ["b::1"], 2) == [Part(["b::1"], False)]
    alone = "a::test_out_of_memory_carries_the_free_bytes"
    assert parts_of(["a::1", alone], [], 2) == [Part([alone], True, alone=True), Part(["a::1"], True)]


def test_tests_that_need_not_pass_are_judged_by_what_the_tool_finds():
    looked_at, judged = Part(["a::1", "a::2"], False), Part(["a::1", "a::2"], True)
    some, none = "F.\n1 failed, 1 passed in 2.00s\n", "FF\n2 failed in 2.00s\n"
    clean, wrong = output(counted=0), output(OURS, counted=1)
    assert judge(looked_at, clean, some, 1)[0] == CLEAN
    assert judge(judged, clean, some, 1)[0] == WRONG
    assert judge(looked_at, wrong, some, 1)[0] == WRONG
    assert judge(looked_at, clean, none, 1)[0] == UNCHECKED  # perhaps not one came to CUDA
    assert judge(looked_at, wrong, none, 1)[0] == WRONG
    assert judge(looked_at, clean, "", 2)[0] == WRONG  # pytest was interrupted


def test_a_choice_of_the_callers_narrows_ours():
    assert pytest_arguments("a or b", ["-x", "-k", "c or d"])[-3:] == ["-k", "(a or b) and (c or d)", "-x"]
    assert pytest_arguments("a or b", [])[-2:] == ["-k", "a or b"]


def test_the_worst_verdict_is_that_of_all():
    assert worst([CLEAN, CLEAN]) == CLEAN
    assert worst([CLEAN, UNCHECKED]) == UNCHECKED
    assert worst([UNCHECKED, WRONG, CLEAN]) == WRONG


def test_jobs_are_not_pytests():
    assert take_number(["-k", "capture", "--jobs", "3", "-x"], "--jobs", 2) == (3, ["-k", "capture", "-x"])
    assert take_number(["-x"], "--jobs", 2) == (2, ["-x"])
    for wrong in (["--jobs"], ["--jobs", "many"], ["--jobs", "0"]):
        with pytest.raises(ValueError, match=r"invalid literal|less than one"):
            take_number(wrong, "--jobs", 2)


def test_what_does_not_end_says_where_it_is(tmp_path):
    tool = tmp_path / "tool"
    tool.write_text(
        '#!/bin/sh\nwhile case "$1" in --*) ;; *) false ;; esac do shift; done\n"$@"\n'
    )  # a parent, as the tool is
    tool.chmod(0o755)
    hangs = ["-X", "faulthandler", "-c", "import time\ndef waits_for_ever():\n    time.sleep(99)\nwaits_for_ever()"]
    _, printed, status = run(str(tool), tmp_path, "hangs", hangs, most_printed=0, limit=2)
    assert status == 124
    assert "in waits_for_ever" in printed


def test_who_ends_it_ends_its_tools(tmp_path):
    """They are in process groups of their own, and would go on working on the GPUs."""
    tool, begun = tmp_path / "tool", tmp_path / "begun"
    tool.write_text(
        '#!/bin/sh\nfor one; do case "$one" in --log-file=*) log=${one#--log-file=};; esac; done\n'
        'case "$*" in *overrun) echo "Invalid __global__ write of size 4" > "$log"; exit;; esac\n'
        f'echo $$ > "{begun}.new"; mv "{begun}.new" "{begun}"; exec sleep 99\n'
    )
    tool.chmod(0o755)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "gpu.memcheck", "--jobs", "1", "-k", "nested"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "COMPUTE_SANITIZER": str(tool)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not begun.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    tool_ended = Path(f"/proc/{begun.read_text().strip()}/stat")
    while tool_ended.exists() and tool_ended.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
