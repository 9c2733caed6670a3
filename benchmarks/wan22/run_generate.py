"""Acceptance of the zero-code way: Wan's own generate.py under `wanhook run -- torchrun ...`, and without it.

    python -m benchmarks.wan22.run_generate --wan DIR --ranks 2 --work WORK [--size tiny] [--task t2v-A14B ti2v-5B]

Needs no change to Wan: small random weights are written under WORK once, `unchanged` puts stand-ins where packages are
missing. Checked: exit codes, latents of every rank, log lines and stderr after masking times and rates, every scope and
collective role with its count on every rank, and the same exit code when rank 1 raises or is killed. Exit status 1 on
FAIL. Without a GPU it runs over gloo (--size cpu). With a checkout of Wan2.1 and xfuser 0.4.5 (--task t2v-14B) it needs
GPUs for more than one rank.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .check_real_run import announce
from .generate_counts import ONLY_RANK_0, collectives, scopes
from .sizes import SIZES, Size
from .verdicts import Verdict

_ROOT = Path(__file__).resolve().parents[2]
_TASKS = ("t2v-A14B", "ti2v-5B")
_TASKS_OF_WAN21 = ("t2v-14B",)
_STEPS = 4
_LONGEST = 1800  # seconds of one launch


@dataclass
class Ended:
    """One launch of generate.py."""

    status: int
    output: str
    errors: str
    directory: Path

    def latents(self) -> list[str]:
        return [file.read_text() for file in sorted(self.directory.glob("results/latents-*.txt"))]

    def log(self) -> list[str]:
        """Rank 0's log, which is all of stdout."""
        return [_masked(line) for line in self.output.splitlines()]

    def complaints(self) -> list[str]:
        """stderr without progress bars; the ranks' lines mix as they will."""
        return sorted(_masked(line) for line in self.errors.splitlines() if line.strip() and "it/s" not in line)


def _masked(line: str) -> str:
    line = re.sub(r"\d{4}-\d\d-\d\d[ T]?[\d:,.]*", "TIME", line)
    return re.sub(r"\b[IWE]\d{4} [\d:.]+ \d+", "TIME", line)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wan", type=Path, default=os.environ.get("WAN22_REPO"), help="Wan2.2 checkout (WAN22_REPO)")
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--task", nargs="+", choices=_TASKS + _TASKS_OF_WAN21, default=_TASKS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("generate-check"), help="weights, results and recordings")
    parser.add_argument("--no-breaks", action="store_true", help="leave out the launches that are made to fail")
    return parser.parse_args()


def launch(arguments: argparse.Namespace, task: str, name: str, *, record: bool, broken: str = "") -> Ended:
    """Runs generate.py in a fresh folder WORK/TASK/NAME."""
    size, ranks = SIZES[arguments.size], str(arguments.ranks)
    directory = arguments.work / task / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    command += [
        "-m",
        "benchmarks.wan22.unchanged",
        "--task",
        task,
        "--ckpt_dir",
        str(arguments.work / task / "weights"),
    ]
    command += ["--size", "{}*{}".format(*size.video), "--frame_num", str(size.frames), "--sample_steps", str(_STEPS)]
    command += ["--base_seed", "7", "--prompt", "two cats", "--save_file", "video.mp4"]
    command += ["--ulysses_size", ranks, "--dit_fsdp", "--t5_fsdp"] if arguments.ranks > 1 else []
    if record:
        command = [sys.executable, "-m", "wanhook", "run", "--out", "run", "--no-report", "--", *command]
    done = subprocess.run(
        command,
        cwd=directory,
        env=_environment(arguments, WAN22_BREAK=broken),
        capture_output=True,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, directory)


def _environment(arguments: argparse.Namespace, **changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANHOOK")}
    path = os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH")]))
    mine = {"WAN22_REPO": str(arguments.wan), "WAN22_SIZE": arguments.size, "WAN22_RESULTS": "results"}
    return {**kept, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **mine, **changes}


def prepare(arguments: argparse.Namespace, task: str) -> None:
    """Writes the task's weights unless they are there. Raises CalledProcessError."""
    folder = arguments.work / task / "weights"
    done = folder / f"made-{arguments.size}"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.wan22.unchanged", "--prepare", str(folder), task]
    subprocess.run(command, cwd=_ROOT, env=_environment(arguments), check=True, timeout=_LONGEST)
    done.touch()


def judge_pair(bare: Ended, recorded: Ended) -> list[Verdict]:
    """What recording may not change."""
    statuses, latents = (bare.status, recorded.status), (bare.latents(), recorded.latents())
    if statuses != (0, 0):
        return [Verdict("both succeed", False, f"statuses {statuses}: {(bare.errors + recorded.errors)[-2000:]}")]
    same = bool(latents[0]) and latents[0] == latents[1]
    return [
        Verdict("both succeed", True, "exit status 0"),
        Verdict("latents equal", same, f"{len(latents[0])} and {len(latents[1])} ranks: {latents[0][:1]}"),
        Verdict("log lines equal", bare.log() == recorded.log(), _first_difference(bare.log(), recorded.log())),
        Verdict(
            "stderr equal",
            bare.complaints() == recorded.complaints(),
            _first_difference(bare.complaints(), recorded.complaints()),
        ),
    ]


def _first_difference(first: list[str], second: list[str]) -> str:
    only = list((Counter(first) - Counter(second)).elements()), list((Counter(second) - Counter(first)).elements())
    return f"{len(first)} lines" if not any(only) else f"only bare: {only[0][:2]}; only recorded: {only[1][:2]}"


def judge_recording(recorded: Ended, task: str, size: Size, ranks: int) -> list[Verdict]:
    """Every scope and role with the count that Wan's code implies, on every rank."""
    import wanhook

    run = wanhook.load(recorded.directory / "run")
    problems = list(run.problems) + [note for trace in run for note in trace.meta.get("notes", [])]
    problems += [f"{len(run.traces)} traces of {ranks} ranks"] * (len(run.traces) != ranks)
    wrong_scopes, wrong_roles = [], []
    for trace in run:
        paths = [trace.paths[one] for one in trace.scopes["path"]]
        there = Counter(path for path in paths if not path.endswith("fsdp wait"))
        wanted = scopes(task, size, _STEPS, ranks)
        left_out = ONLY_RANK_0 if trace.rank else set()
        wrong_scopes += _differences(trace.rank, there, {path: n for path, n in wanted.items() if path not in left_out})
        wrong_roles += _differences(trace.rank, _roles(trace), collectives(task, size, _STEPS, ranks))
    return [
        Verdict("recordings whole", not problems, "; ".join(problems[:4]) or f"{ranks} files, no note"),
        Verdict("scopes as derived", not wrong_scopes, "; ".join(wrong_scopes[:6]) or "on every rank"),
        Verdict("roles as derived", not wrong_roles, "; ".join(wrong_roles[:6]) or "on every rank"),
    ]


def _roles(trace) -> Counter:
    """Collectives by role. An all_gather that nobody tagged is FSDP's: its integration may be switched off."""
    found: Counter = Counter()
    for op, role in zip(trace.collectives["op"], trace.collectives["role"], strict=True):
        name, tag = trace.strings[op], trace.strings[role]
        if tag or "allgather" in name:
            found[tag or "fsdp"] += 1
    return found


def _differences(rank: int, found: dict, wanted: dict) -> list[str]:
    keys = sorted({*found, *wanted})
    return [f"rank {rank}: {key} {found.get(key, 0)} not {wanted.get(key, 0)}" for key in keys
            if found.get(key, 0) != wanted.get(key, 0)]  # fmt: skip


def judge_breaks(arguments: argparse.Namespace, task: str) -> list[Verdict]:
    """The launch fails with the same status when a rank does, and every rank's recording is readable."""
    import wanhook

    verdicts = []
    for how in ("exception", "kill"):
        ended = [launch(arguments, task, f"{how}-{word}", record=word == "recorded", broken=how)
                 for word in ("bare", "recorded")]  # fmt: skip
        statuses = [one.status for one in ended]
        ranks = len(wanhook.load(ended[1].directory / "run").traces)
        right = statuses[0] == statuses[1] != 0 and ranks == arguments.ranks
        verdicts.append(Verdict(f"rank 1: {how}", right, f"exit statuses {statuses}, {ranks} ranks' recordings"))
    return verdicts


def main() -> int:
    arguments = parse()
    if arguments.wan is None:
        raise SystemExit("name a Wan2.2 checkout with --wan or WAN22_REPO")
    arguments.wan, arguments.work = arguments.wan.resolve(), arguments.work.resolve()
    failed = False
    for task in arguments.task:
        print(f"{task}, {arguments.size}, {arguments.ranks} ranks", flush=True)
        prepare(arguments, task)
        bare = launch(arguments, task, "bare", record=False)
        recorded = launch(arguments, task, "recorded", record=True)
        verdicts = judge_pair(bare, recorded)
        if recorded.status == 0:
            verdicts += judge_recording(recorded, task, SIZES[arguments.size], arguments.ranks)
        announce(verdicts)
        if not arguments.no_breaks and arguments.ranks > 1 and verdicts[0].passed:
            broken = judge_breaks(arguments, task)
            announce(broken)
            verdicts += broken
        failed |= any(verdict.passed is False for verdict in verdicts)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
