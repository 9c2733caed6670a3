"""`make memcheck`: GPU tests under NVIDIA's compute-sanitizer (memcheck). ARGS choose tests, as pytest's arguments do;
`--jobs N` run at a time, and after `--limit SECONDS` those that have not ended say where they are and are ended.

First a planted overrun has to be found: on some machines the tool starts and checks nothing ("Device not supported").
Exit status: 0 clean, 1 something is wrong, 2 nothing could be checked.

What counts: every bad memory access, and every CUDA call of our own that failed. A failed call belongs to the library
that made it; those of torch and NVIDIA's libraries are counted and shown, no more. torch's caching allocator hides
accesses that stay inside one of its segments.

The tests are dealt out to several tools that run at a time, on the same GPUs. Some have to pass. Of the others, whose
tolerances are times, or memory that others may take, only what it finds counts. NCCL's kernels, which wait for
each other, are not checked; the calls beside them are.

Left out are tests with CUPTI (two tools on one device), expandable segments and what shares a fixture with them (false
alarms: pytorch#196209), a kernel that never ends, the capture beside which a call of ours is meant to fail (the legacy
stream's), and the figure that an event pair costs (there is none under the tool; what measures it runs in every test).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Have to pass: whole files, and tests of others.
WHOLE = ("test_capture_gpu", "test_pools_gpu", "test_allocator_gpu", "test_sample_places_gpu")
PARTS = (
    "nested", "share_a_stream", "no_cuda_error", "not_swallowed", "their_own_memory", "exact_allocator_order",
    "samples_are_of",
)  # fmt: skip
WITHOUT = (
    "legacy_stream", "come_up_at_any_time", "expandable", "hung_gpu",
    "test_kernels_gpu", "kinetos_kernel", "beside_a_recording", "test_pair_cost_gpu",
)  # fmt: skip
JUDGED = f"({' or '.join(WHOLE + PARTS)}) and not ({' or '.join(WITHOUT)})"
LOOKED_AT = f"not ({' or '.join(WHOLE + PARTS + WITHOUT)})"
ALONE = "::test_out_of_memory_"  # of those that have to pass: nobody else may take memory of the GPU
OPTIONS = (
    "--tool=memcheck", "--target-processes=all", "--report-api-errors=explicit", "--strip-paths=no",
    "--num-callers-host=12", "--launch-timeout=120", "--kernel-name-exclude=kns=nccl",
)  # fmt: skip
# Host stacks without Python frames: for those the tool takes the GIL in the middle of a launch, under a lock of the
# driver's. A thread that waits for that lock in a CUDA call and holds the GIL then waits for ever. The tool's own
# library has the name; 2025.3.1 knows it. Where it is unknown, --limit ends the tests.
NATIVE_STACKS = {"SANITIZER_HOST_STACKTRACE_NATIVE": "1"}
LIMIT_SECONDS = 540
SOME_TESTS_FAILED = 1  # pytest's exit status
LAST_WORDS_SECONDS = 10  # for a test that is ended to say where it is
PREFIX = "========="
PLANTED = "Invalid __global__ write"
UNSUPPORTED = "Device not supported"
CLEAN, WRONG, UNCHECKED = 0, 1, 2
# Frames of these say that a CUDA call was made, not by whom; Python's, where there are any after all, hide who did.
BETWEEN = re.compile(r"lib(cuda|sanitizer|TreeLauncher|InterceptorInjection)[^/]*\.so|\.py:\d+$")
OURS = re.compile(r"(^|/)wanhook/_C\.[^/]*\.so$")
NOT_READY = re.compile(r"cudaErrorNotReady|CUDA_ERROR_NOT_READY")  # an answer, no error
_API_ERROR = re.compile(r"Program hit .* on CUDA API call(?: to (\w+))?")
_FRAME = re.compile(r"Host Frame:(?:.* in (\S+)$)?")
_FRAME_GOES_ON = re.compile(r"in (\S+)$")  # the library, in a line of its own
_SOME_PASSED = re.compile(r"\b[1-9]\d* passed\b")
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")
_NO_FINDING = re.compile(r"COMPUTE-SANITIZER|Warning|.*(SUMMARY:|Target application|Process \(?\d)")


@dataclass(frozen=True)
class Finding:
    """`call`: the CUDA function that failed, None for a bad access. `library`: file name of who made the call."""

    title: str
    call: str | None
    library: str | None
    text: str

    @property
    def counts(self) -> bool:
        if self.call is None:
            return True
        may_be_ours = self.library is None or bool(OURS.search(self.library))
        return may_be_ours and not NOT_READY.search(self.title)


@dataclass(frozen=True)
class Part:
    """Tests of one tool. `judged`: they have to pass. `alone`: with no other tool beside them."""

    tests: list[str]
    judged: bool
    alone: bool = False


def findings(output: str) -> list[Finding]:
    """What the tool printed, without its banner and summary. A finding begins with one space, its details with more."""
    blocks: list[list[str]] = []
    for line in output.splitlines():
        if not line.startswith(PREFIX):
            continue
        text = line.removeprefix(PREFIX)
        if re.match(r" \S", text):
            blocks.append([text.strip()])
        elif text.strip() and blocks:
            blocks[-1].append(text.strip())
    return [_finding(lines) for lines in blocks if not _NO_FINDING.match(lines[0])]


def _finding(lines: Sequence[str]) -> Finding:
    failed = _API_ERROR.search(lines[0])
    frames: list[str | None] = []
    for line in lines:
        if frame := _FRAME.match(line):
            frames.append(frame[1])
        elif frames and (more := _FRAME_GOES_ON.match(line)):
            frames[-1] = more[1]
    callers = [library for library in frames if library and not BETWEEN.search(library)]
    return Finding(
        title=lines[0],
        call=(failed[1] or "?") if failed else None,
        library=callers[0] if callers else None,
        text="\n".join(lines),
    )


def verdict(output: str, returncode: int) -> tuple[int, list[str]]:
    """Exit status, and the lines that say why. What the tool counted but we did not read counts as wrong."""
    if UNSUPPORTED in output:
        return UNCHECKED, [f"NOTHING WAS CHECKED: compute-sanitizer says '{UNSUPPORTED}' on this machine"]
    summaries = [int(count) for count in _SUMMARY.findall(output)]
    if not summaries:
        return UNCHECKED, ["NOT CHECKED TO THE END: compute-sanitizer printed no summary"]
    found = findings(output)
    ours = [finding for finding in found if finding.counts]
    others = Counter((each.title, each.library or "an unknown library") for each in found if not each.counts)
    lines = [f"{count} times by {whose}, no error of ours: {title}" for (title, whose), count in others.most_common()]
    lines += [finding.text for finding in ours]
    unread = sum(summaries) - len(found)
    if unread > 0:
        lines.append(f"{unread} findings of the tool were not understood; they are in its output")
    if returncode != 0:
        lines.append(f"the tests ended with exit status {returncode}")
    wrong = bool(ours) or unread > 0 or returncode != 0
    lines.append(f"memcheck: {'WRONG' if wrong else 'clean'}: {len(ours)} findings that count, {len(found)} in all")
    return WRONG if wrong else CLEAN, lines


def judge(part: Part, log: str, printed: str, status: int) -> tuple[int, list[str]]:
    """The verdict on one tool's tests. Of tests that need not pass one has to, else nothing may have run at all."""
    tolerated = status == SOME_TESTS_FAILED and not part.judged
    code, lines = verdict(log, 0 if tolerated else status)
    if not tolerated:
        return code, lines
    if _SOME_PASSED.search(printed):
        return code, [*lines, "that some of these tests failed does not count here"]
    return worst([code, UNCHECKED]), [*lines, "NOT CHECKED: none of these tests passed"]


def sanitizer() -> str | None:
    """The program: COMPUTE_SANITIZER, on the PATH, in CUDA's folder, or from the wheel nvidia-cuda-sanitizer-api."""
    places = [os.environ.get("COMPUTE_SANITIZER"), shutil.which("compute-sanitizer")]
    places.append(str(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "compute-sanitizer")))
    places += [str(found) for path in sys.path for found in Path(path).glob("nvidia/cu*/bin/compute-sanitizer")]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


# What runs now: a tool is in a process group of its own, and would outlive us.
_running: set[subprocess.Popen] = set()


def end_all(number: int, _frame) -> None:
    """For a signal: nothing is left running on the GPUs, and the exit status is the signal's."""
    for process in list(_running):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os._exit(128 + number)


def end_group(process: subprocess.Popen) -> None:
    """All that it started, once they have said where they are: pytest has Python print its stacks at SIGABRT. The tool
    goes at once and leaves the program behind, so the group is waited for."""
    os.killpg(process.pid, signal.SIGABRT)
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(
    tool: str, folder: Path, name: str, arguments: Sequence[str], most_printed: int, limit: float
) -> tuple[str, str, int]:
    """What the tool printed, what the Python program printed, and the exit status (124: it took longer than `limit`).

    Two files in `folder`: in one, a finding could begin in the middle of a line of the program's.
    """
    log, printed = folder / f"{name}.log", folder / f"{name}.out"
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **NATIVE_STACKS}
    command = [tool, *OPTIONS, f"--print-limit={most_printed}", f"--log-file={log}", sys.executable, *arguments]
    with printed.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        _running.add(process)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            end_group(process)
            status = 124
        finally:
            _running.discard(process)
    texts = [file.read_text(errors="replace") if file.exists() else "" for file in (log, printed)]
    return texts[0], texts[1], status


def finds_planted(tool: str, folder: Path) -> bool:
    log, printed, _ = run(tool, folder, "overrun", ["-m", "gpu.programs.overrun"], most_printed=10, limit=LIMIT_SECONDS)
    if UNSUPPORTED not in log + printed and PLANTED in log:
        return True
    print((log + printed)[-4000:])
    why = f"it says '{UNSUPPORTED}'" if UNSUPPORTED in log + printed else "it did not find a planted overrun"
    print(f"NOTHING WAS CHECKED: compute-sanitizer does not work on this machine: {why}")
    return False


def parts_of(judged: Sequence[str], looked_at: Sequence[str], jobs: int) -> list[Part]:
    """Those that have to pass are dealt out, the first part being that which is alone; the others go by file, whose
    tests often share a program."""
    files: dict[str, list[str]] = {}
    for test in looked_at:
        files.setdefault(test.partition("::")[0], []).append(test)
    alone = [test for test in judged if ALONE in test]
    parts = [Part(alone, True, alone=True)] if alone else []
    parts += [Part(tests, True) for tests in dealt([test for test in judged if test not in alone], jobs)]
    return parts + [Part(tests, False) for tests in files.values()]


def tests_chosen(which: str, arguments: Sequence[str]) -> list[str]:
    """Ids of the tests that pytest would run."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *pytest_arguments(which, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if "::" in line]


def pytest_arguments(which: str, arguments: Sequence[str]) -> list[str]:
    """A -k of the caller's narrows the choice."""
    left = list(arguments)
    if "-k" in left:
        place = left.index("-k")
        which = f"({which}) and ({' '.join(left[place + 1 : place + 2])})"
        del left[place : place + 2]
    return ["-p", "no:cacheprovider", str(ROOT / "tests" / "gpu"), "-k", which, *left]


def dealt(tests: Sequence[str], jobs: int) -> list[list[str]]:
    """The tests of each tool, none without any; neighbours, which are of one sort, to different ones."""
    return [list(tests[first::jobs]) for first in range(min(jobs, len(tests)))]


def worst(codes: Sequence[int]) -> int:
    """WRONG before UNCHECKED before CLEAN: what was found wrong stays so, whatever else was not checked."""
    return next((code for code in (WRONG, UNCHECKED) if code in codes), CLEAN)


def take_number(arguments: Sequence[str], option: str, default: int) -> tuple[int, list[str]]:
    """The number behind the option, and the arguments without the two. ValueError for what is no number from 1 on."""
    left = list(arguments)
    if option not in left:
        return default, left
    place = left.index(option)
    number = int("".join(left[place + 1 : place + 2]))
    if number < 1:
        raise ValueError(f"{number} is less than one")
    return number, left[:place] + left[place + 2 :]


def main(arguments: Sequence[str]) -> int:
    tool = sanitizer()
    if tool is None:
        print("NOTHING WAS CHECKED: no compute-sanitizer; it comes with the CUDA toolkit, or with the package")
        print("nvidia-cuda-sanitizer-api of torch's CUDA version. COMPUTE_SANITIZER=/path/to/it names another one.")
        return UNCHECKED
    try:
        jobs, arguments = take_number(arguments, "--jobs", max(1, min(8, (os.cpu_count() or 1) // 4)))
        limit, arguments = take_number(arguments, "--limit", LIMIT_SECONDS)
    except ValueError as error:
        print(f"NOTHING WAS CHECKED: --jobs takes a number of tests to run at a time, --limit one of seconds: {error}")
        return UNCHECKED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_all)
    folder = Path(tempfile.mkdtemp(prefix="wanhook-memcheck-"))
    print(f"{tool}; all output goes to {folder}", flush=True)
    if not finds_planted(tool, folder):
        return UNCHECKED
    parts = parts_of(tests_chosen(JUDGED, arguments), tests_chosen(LOOKED_AT, arguments), jobs)
    if not parts:
        print("NOTHING WAS CHECKED: no test is chosen")
        return UNCHECKED
    count = sum(len(part.tests) for part in parts)
    print(f"the planted overrun was found; now {count} tests in {len(parts)} parts, {jobs} at a time", flush=True)

    def check(number: int) -> int:
        part = parts[number]
        chosen = ["-m", "pytest", "-q", "--tb=short" if part.judged else "--tb=line", "-p", "no:cacheprovider"]
        log, printed, status = run(tool, folder, f"tests-{number}", [*chosen, *part.tests], most_printed=0, limit=limit)
        code, lines = judge(part, log, printed, status)
        print("\n".join([*printed.splitlines()[-80:], *part.tests, *lines, ""]), flush=True)
        return code

    alone = sum(part.alone for part in parts)
    codes = [check(number) for number in range(alone)]
    with ThreadPoolExecutor(jobs) as pool:
        code = worst([*codes, *pool.map(check, range(alone, len(parts)))])
    print({CLEAN: "all clean", WRONG: "something is WRONG", UNCHECKED: "NOT ALL WAS CHECKED"}[code])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
