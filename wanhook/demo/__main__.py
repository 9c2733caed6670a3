"""`python -m wanhook.demo`: runs the small Wan on all GPUs, or as two processes on the CPU, and prints the report."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from .launch import available_gpus, launch_ranks
from .options import add_work_options, positive
from .presets import PRESETS, process_counts

CPU_PROCESSES = 2


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    gpus = available_gpus()
    try:
        preset, processes = _choose(args, gpus)
        directory = None if args.no_record else _fresh_directory(args.out)
    except ValueError as error:
        parser.error(str(error))
    device = "cuda" if gpus else "cpu"
    _set_recording(directory)
    where = f"{_counted(processes, 'GPU')} over NCCL" if gpus else f"{_counted(processes, 'CPU process')} over gloo"
    print(f"wanhook demo: preset {preset}, {where}, {f'recording to {directory}' if directory else 'not recorded'}")
    sys.stdout.flush()

    status = launch_ranks(processes, _worker_arguments(args, preset, device))
    if directory is None or args.no_report or not any(directory.glob("*.wanhook")):
        return status
    # after a failure too: what the ranks were doing when it ended is what a flight recorder is for
    print(flush=True)
    report = subprocess.run([sys.executable, "-m", "wanhook.report", str(directory)])
    return status or report.returncode


def _counted(number: int, noun: str) -> str:
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{plural}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wanhook.demo", description=__doc__.split(": ", 1)[1])
    add_work_options(parser, default_preset=None)
    parser.add_argument("--nproc", type=positive, metavar="N", help="processes (default: all GPUs, or 2 on the CPU)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="empty run directory (default: wanhook-runs/demo-TIME)")
    parser.add_argument("--no-record", action="store_true", help="run the same program without recording")
    parser.add_argument("--no-report", action="store_true", help="record, but print no report")
    return parser


def _choose(args: argparse.Namespace, gpus: int) -> tuple[str, int]:
    """Preset and number of processes; ValueError with a remedy when they do not go together."""
    preset = args.preset or ("gpu" if gpus else "tiny")
    fitting = process_counts(PRESETS[preset])
    processes = args.nproc or max(n for n in fitting if n <= (gpus or CPU_PROCESSES))
    if processes not in fitting:
        choices = ", ".join(str(n) for n in fitting)
        heads = PRESETS[preset].dit.heads
        raise ValueError(f"--nproc {processes}: Ulysses deals out the {heads} heads of preset {preset}; take {choices}")
    if gpus and processes > gpus:
        raise ValueError(f"--nproc {processes}: there are {gpus} GPUs (CUDA_VISIBLE_DEVICES= runs on the CPU)")
    if args.offload and processes > 1:
        raise ValueError("--offload needs --nproc 1: FSDP keeps its shards where they are")
    return preset, processes


def _fresh_directory(wanted: Path | None) -> Path:
    """An empty directory, made if need be; ValueError when it holds something or cannot be made."""
    directory = wanted or Path("wanhook-runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = next(directory.iterdir(), None)
    except OSError as error:
        raise ValueError(f"cannot make {directory}: {error.strerror}; name another one with --out") from error
    if taken is not None:
        raise ValueError(f"{directory} is not empty; name a new one with --out")
    return directory


def _set_recording(directory: Path | None) -> None:
    """Tells the ranks, through the environment, where to record; WANHOOK=0 makes every scope a no-op."""
    os.environ.pop("WANHOOK_OUT", None)
    os.environ.pop("WANHOOK", None)  # 1 would start a recording of its own before the demo does
    if directory is None:
        os.environ["WANHOOK"] = "0"
    else:
        os.environ["WANHOOK_OUT"] = str(directory.absolute())


def _worker_arguments(args: argparse.Namespace, preset: str, device: str) -> list[str]:
    arguments = ["--preset", preset, "--device", device, "--level", args.level]
    if args.steps:
        arguments += ["--steps", str(args.steps)]
    if args.offload is not None:
        arguments.append("--offload" if args.offload else "--no-offload")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
